"""The families that can be grown, and how a model of one is configured, checked and described."""

from pipeline.families.active_layers import NO_MIXTURES, ActiveLayers, Mixtures
from pipeline.families.base import (
    EXPERT_KEYS,
    GROUP_KEYS,
    LATENT_KEYS,
    Family,
    Sizes,
    config_key,
    depth_keys,
    has_key,
    initializer_range,
    sizes_of,
)
from pipeline.families.config_file import FLOATS, QUANTIZATION, read_config
from pipeline.families.context import Change, context_changes, context_keys, context_of, keep_context
from pipeline.families.layer_lists import LAYER_LISTS, carry_layer_lists, drop_intervals, layer_kind, of_layers
from pipeline.families.padding import learn_every_row
from pipeline.families.registry import (
    FAMILIES,
    PAIR_FAMILIES,
    TRAINED,
    check_parameters,
    check_trained,
    family_of,
    graph_of,
    held_by,
)
from pipeline.families.scratch import scratch_config
from pipeline.families.target import FFN_KEYS, check_growth, derived_sizes, target_config
from pipeline.families.tensor_names import place
from pipeline.families.upcycling import MIXTURE_FORMS, read_as

__all__ = [
    "EXPERT_KEYS",
    "FAMILIES",
    "FFN_KEYS",
    "FLOATS",
    "GROUP_KEYS",
    "LATENT_KEYS",
    "LAYER_LISTS",
    "MIXTURE_FORMS",
    "NO_MIXTURES",
    "PAIR_FAMILIES",
    "QUANTIZATION",
    "TRAINED",
    "ActiveLayers",
    "Change",
    "Family",
    "Mixtures",
    "Sizes",
    "carry_layer_lists",
    "check_growth",
    "check_parameters",
    "check_trained",
    "config_key",
    "context_changes",
    "context_keys",
    "context_of",
    "depth_keys",
    "derived_sizes",
    "drop_intervals",
    "family_of",
    "graph_of",
    "has_key",
    "held_by",
    "initializer_range",
    "keep_context",
    "layer_kind",
    "learn_every_row",
    "of_layers",
    "place",
    "read_as",
    "read_config",
    "scratch_config",
    "sizes_of",
    "target_config",
]
