"""The families that can be grown, and how a model of one is configured, checked and described."""

from pipeline.families.base import Axis, AxisKind, Family, Sizes, TensorSpec, sizes_of
from pipeline.families.padding import learn_every_row
from pipeline.families.registry import FAMILIES, PAIR_FAMILIES, check_parameters, family_of
from pipeline.families.scratch import scratch_config
from pipeline.families.section import Section
from pipeline.families.target import check_growth, derived_sizes, target_config

__all__ = [
    "FAMILIES",
    "PAIR_FAMILIES",
    "Axis",
    "AxisKind",
    "Family",
    "Section",
    "Sizes",
    "TensorSpec",
    "check_growth",
    "check_parameters",
    "derived_sizes",
    "family_of",
    "learn_every_row",
    "scratch_config",
    "sizes_of",
    "target_config",
]
