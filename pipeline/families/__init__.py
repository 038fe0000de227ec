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
