"""Lists of a configuration that have one entry per layer: what they say of one, and how they grow with the layers."""

import copy
from collections.abc import Sequence
from typing import Any

from transformers import PretrainedConfig

from pipeline.common.errors import UserError
from pipeline.families.base import Family, depth_keys

LAYER_LISTS = ("layer_types", "no_rope_layers")

_INTERVALS = ("global_attn_every_n_layers", "sliding_window_pattern", "_sliding_window_pattern")
"""Keys from which earlier versions of transformers make `layer_types`: one layer in so many attends to everything."""

SPARSE_KEYS = ("mlp_only_layers", "decoder_sparse_step", "first_k_dense_replace")
"""What says which layers have experts, where a class has both kinds."""


def layer_kind(config: PretrainedConfig, layer: int) -> dict[str, Any]:
    """Return what the configuration's lists say of a layer."""
    said = {key: getattr(config, key)[layer] for key in LAYER_LISTS if getattr(config, key, None)}
    return said | ({"sparse": is_sparse(config, layer)} if _has_both(config) else {})


def is_sparse(config: PretrainedConfig, layer: int) -> bool:
    """Whether a layer of a class that has both kinds has experts (Qwen-MoE, DeepSeek)."""
    if hasattr(config, "first_k_dense_replace"):
        return layer >= config.first_k_dense_replace
    return layer not in config.mlp_only_layers and (layer + 1) % config.decoder_sparse_step == 0


def _has_both(config: PretrainedConfig) -> bool:
    """Whether a class has layers with experts and layers without."""
    return any(hasattr(config, key) for key in SPARSE_KEYS)


def carry_layer_lists(source: PretrainedConfig, target: PretrainedConfig, origins: Sequence[int | None]) -> None:
    """Give each layer of the target what the lists say of the source's layer that it is made of; the last's where of none.

    A list made again for more layers would have layers attend otherwise than the ones whose weights they have. Raises
    UserError where a class has no word for what layers with experts and without would stand in turn.
    """
    for key in LAYER_LISTS:
        said = getattr(source, key, None)
        if said:
            setattr(target, key, [said[-1 if origin is None else origin] for origin in origins])
    if _has_both(source):
        last = source.num_hidden_layers - 1
        sparse = [is_sparse(source, last if origin is None else origin) for origin in origins]
        if hasattr(source, "first_k_dense_replace"):
            if sparse != sorted(sparse):
                raise UserError(
                    f"growth.depth: layer {sparse.index(True)} would have experts and layer "
                    f"{len(sparse) - 1 - sparse[::-1].index(False)} none, and first_k_dense_replace counts layers without "
                    "experts that stand before all others; choose interleave, or list layers in the source's order"
                )
            target.first_k_dense_replace = sparse.count(False)
            return
        # A list says of any layers what a step says of every n-th.
        if sparse != [is_sparse(target, layer) for layer in range(len(sparse))]:
            target.decoder_sparse_step = 1
            target.mlp_only_layers = [layer for layer, experts in enumerate(sparse) if not experts]


def drop_intervals(config: PretrainedConfig) -> None:
    """Remove keys from which a reader would make another list of layers than `layer_types`."""
    written = [key for key in _INTERVALS if key in vars(config)]
    if written:
        made = type(config).from_dict(config.to_dict() | {"layer_types": None})
        for key in written if made.layer_types != config.layer_types else ():
            delattr(config, key)


def of_layers(family: Family, config: PretrainedConfig, layers: Sequence[int]) -> PretrainedConfig:
    """Return the configuration of a model of these layers alone, of each stack at least one."""
    cut = copy.deepcopy(config)
    for key, numbers in zip(depth_keys(family.config_class), family.graph(config).ranges, strict=True):
        setattr(cut, key, sum(layer in numbers for layer in layers))
    carry_layer_lists(config, cut, layers)
    return cut
