"""Families that tests go through."""

from pipeline.families import TRAINED, has_key

DENSE = [name for name, family in TRAINED.items() if not has_key(family.config_class, "num_experts")]
"""Those that are trained and are no mixtures of experts."""

WITH_A_MIXTURE = [*DENSE, "qwen2_moe"]
"""The same and one mixture, for what does not depend on how experts are chosen."""
