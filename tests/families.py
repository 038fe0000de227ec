"""Families that tests go through."""

from pipeline.families import TRAINED, ActiveLayers, has_key
from pipeline.families.tensors import Tensor

DENSE = [name for name, family in TRAINED.items() if not has_key(family.config_class, "num_experts")]
"""Those that are trained and are no mixtures of experts."""

WITH_A_MIXTURE = [*DENSE, "qwen2_moe"]
"""The same and one mixture, for what does not depend on how experts are chosen."""


def learns(active: ActiveLayers, tensor: Tensor) -> bool:
    """Whether all of a tensor learns."""
    if tensor.layer is None:
        return active.embeddings if tensor.group == "embeddings" else active.head
    experts = set() if tensor.expert is None else {tensor.expert}
    return tensor.layer in active.layers or active.mixture_learns(tensor.mixture, experts)
