"""The configuration of the mixture of experts that a source is read as before it grows.

A dense model becomes a mixture of one of the classes whose layers are its own but for the feed-forward network; the experts of
a mixture are cut into parts.
"""

import copy
from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig

from pipeline.common.errors import UserError
from pipeline.families.base import EXPERT_KEYS, config_key, has_key, sizes_of
from pipeline.families.layer_lists import is_sparse
from pipeline.families.registry import FAMILIES, family_of
from pipeline.recipe import GrowthConfig, TargetConfig

MIXTURES: Mapping[str, tuple[str, ...]] = {
    "llama": ("mixtral", "qwen2_moe"),
    "mistral": ("mixtral",),
    "qwen2": ("qwen2_moe",),
    "qwen3": ("qwen3_moe",),
}
"""The mixtures whose layers are those of a dense family but for the feed-forward network."""

_NOT_MADE = {
    "olmoe": "an olmoe: it has one norm over the queries of all heads, one over the keys, and norms before its branches, "
    "which no dense family here has together (olmo2 has the former, and its other norms behind branches), and a norm that is "
    "added changes what a model computes",
    "deepseek_v3": "a deepseek_v3: its queries, keys and values are made of latents, which no dense family here has",
}
"""The mixtures that no dense model becomes, and why."""

MIXTURE_FORMS = ("norm_topk_prob", "mlp_only_layers", "decoder_sparse_step")
"""What a target says of the mixture that a dense model is made into, in addition to sizes."""

_KEYS = (*EXPERT_KEYS, *MIXTURE_FORMS)


def read_as(
    source: PretrainedConfig, target: TargetConfig | PretrainedConfig, growth: GrowthConfig | None, where: str
) -> PretrainedConfig:
    """Return the configuration that a source is read as before it grows; `where` stands before keys.

    A dense source whose target is of another class: a mixture of that class, at the source's sizes. A mixture whose target has
    experts of fewer units: one whose experts are cut into equal parts. Else the source itself. Without a growth its options
    are the defaults. Raises UserError naming the key.
    """
    if target.model_type is not None and target.model_type != source.model_type:
        return _upcycled(source, target, target.model_type, growth is not None and growth.shared_expert == "ffn", where)
    return _split(source, target, where)


def units_key(config: PretrainedConfig | type[PretrainedConfig]) -> str:
    """Return the configuration key of how many units an expert has."""
    return "moe_intermediate_size" if has_key(config, "moe_intermediate_size") else "intermediate_size"


def _split(source: PretrainedConfig, target: TargetConfig | PretrainedConfig, where: str) -> PretrainedConfig:
    """Return a mixture each of whose experts is as many experts as have its units together."""
    old, key = sizes_of(source), units_key(source)
    if old.num_experts is None:
        return source
    whole, units = getattr(old, key), getattr(target, key)
    if units is None or units >= whole:
        return source
    parts = _equal_parts(whole, units, "experts", f"{where}{key}")
    config = copy.deepcopy(source)
    # Shared experts keep their units together, and groups the experts that they have.
    counted = ["num_experts", "num_experts_per_tok", *(["n_shared_experts"] if old.n_shared_experts else [])]
    counted += ["n_group", "topk_group"] if old.n_group != old.topk_group else []
    for name in counted:
        word = config_key(config, name)
        least, named = getattr(old, name) * parts, getattr(target, name if isinstance(target, TargetConfig) else word)
        if named is not None and (named < least or named % parts):
            raise UserError(
                f"{where}{name}: {named} is no multiple of {parts} from {least} on, and experts of {units} units are "
                f"{parts} parts of each of the source's, which go together; name {least}, or another such multiple"
            )
        setattr(config, word, least)
    setattr(config, key, whole // parts)
    return config


def _upcycled(
    source: PretrainedConfig, target: TargetConfig | PretrainedConfig, mixture: str, shared_of_ffn: bool, where: str
) -> PretrainedConfig:
    """Return the configuration of a dense model made into a mixture of its own sizes."""
    _check_pair(source.model_type, mixture, where)
    family, sizes = FAMILIES[mixture], sizes_of(source)
    made = family.config_class
    wanted = {key: getattr(target, key, None) for key in _KEYS}
    for key, value in wanted.items():
        if value is not None and not has_key(made, key):
            remedy = f"name {units_key(made)}" if key == "moe_intermediate_size" else "leave it out"
            raise UserError(f"{where}{key}: {family.name} has no such key; {remedy}")
    experts, per_token = wanted["num_experts"], wanted["num_experts_per_tok"]
    if experts is None or per_token is None:
        missing = "num_experts" if experts is None else "num_experts_per_tok"
        raise UserError(f"{where}{missing}: not given; say how many experts there are and how many a token goes through")
    if not 1 <= per_token <= experts:
        raise UserError(f"{where}num_experts_per_tok: {per_token} of {experts} experts; name at most all of them")
    known = made.__dataclass_fields__
    keys: dict[str, Any] = {key: value for key, value in source.to_dict().items() if key in known and key != "model_type"}
    # The gates of the experts that are chosen then sum to 1, which alone makes copies of the FFN compute what it does.
    keys |= {"norm_topk_prob": True} if "norm_topk_prob" in known else {}
    keys |= {made.attribute_map.get(key, key): value for key, value in wanted.items() if value is not None}
    keys["architectures"] = [family.model_class.__name__]
    if "head_dim" in known or sizes.num_attention_heads * sizes.head_dim != sizes.hidden_size:
        keys["head_dim"] = sizes.head_dim
    if "qkv_bias" in known:
        keys["qkv_bias"] = any(name.endswith("q_proj.bias") for name in family_of(source).graph(source).tensors())
    whole, key = sizes.intermediate_size, units_key(made)
    if has_key(made, "shared_expert_intermediate_size"):
        keys.setdefault("shared_expert_intermediate_size", whole)
    if shared_of_ffn:
        whole -= _shared_units(wanted["shared_expert_intermediate_size"], whole, family.name, where)
    parts = _equal_parts(whole, min(whole, getattr(target, key) or whole), "FFN", f"{where}{key}")
    for name, count in (("num_experts", experts), ("num_experts_per_tok", per_token)):
        if count % parts:
            raise UserError(
                f"{where}{name}: {count} is no multiple of the {parts} experts that the source's FFN is cut into; name a "
                f"multiple of {parts}"
            )
    # Experts of more units grow like others.
    keys[key] = whole // parts
    config = made(**keys)
    config.dtype = source.dtype
    _check_sparse(config, target, where)
    _check_kept(source, config, where)
    return config


def _check_pair(model_type: str, mixture: str, where: str) -> None:
    """Refuse a mixture whose layers are not the source's but for the feed-forward network."""
    made = sorted({name for names in MIXTURES.values() for name in names})
    fits = MIXTURES.get(model_type, ())
    if mixture in fits:
        return
    if mixture in _NOT_MADE:
        raise UserError(f"{where}model_type: no dense model becomes {_NOT_MADE[mixture]}; name another")
    if mixture not in made:
        raise UserError(
            f"{where}model_type: {mixture!r} is not the source's {model_type!r}, which growth keeps; of dense models mixtures "
            f"are made: {', '.join(made)}"
        )
    raise UserError(
        f"{where}model_type: a {model_type} does not become a {mixture}; "
        + (f"name {' or '.join(fits)}" if fits else f"of dense models {', '.join(MIXTURES)} become mixtures of experts")
    )


def _shared_units(units: int | None, whole: int, mixture: str, where: str) -> int:
    key = "shared_expert_intermediate_size"
    if not has_key(FAMILIES[mixture].config_class, key):
        raise UserError(f"growth.shared_expert: a {mixture} has no expert that every token goes through; leave it out")
    if units is None or units >= whole:
        raise UserError(
            f"{where}{key}: with growth.shared_expert: ffn the shared expert has some of the FFN's {whole} units, and "
            f"{'none are' if units is None else f'{units} are'} named; name fewer than all"
        )
    return units


def _equal_parts(whole: int, units: int, what: str, key: str) -> int:
    """Return the least number of equal parts of at most so many units that `whole` units fall into."""
    parts = -(-whole // units)
    if whole % parts:
        raise UserError(
            f"{key}: the {whole} units of the source's {what} do not fall into {parts} equal parts of up to {units}; name "
            "another size"
        )
    return parts


def _check_sparse(config: PretrainedConfig, target: TargetConfig | PretrainedConfig, where: str) -> None:
    """Refuse lists of layers without experts that leave no layer with any, or that a deeper target would change."""
    if not hasattr(config, "mlp_only_layers"):
        return
    depth, dense = config.num_hidden_layers, config.mlp_only_layers
    if (beyond := [layer for layer in dense if layer >= depth]) and target.num_hidden_layers in (None, depth):
        raise UserError(f"{where}mlp_only_layers: {beyond[0]} is no layer of the model, which has layers 0 to {depth - 1}")
    if (dense or config.decoder_sparse_step > 1) and target.num_hidden_layers not in (None, depth):
        key = "mlp_only_layers" if dense else "decoder_sparse_step"
        raise UserError(
            f"{where}{key}: says which layers have experts, and the layers change with num_hidden_layers; grow the depth in "
            "another step"
        )
    if not any(is_sparse(config, layer) for layer in range(depth)):
        key = "mlp_only_layers" if dense else "decoder_sparse_step"
        raise UserError(f"{where}{key}: leaves no layer that has experts; name another")


def _check_kept(source: PretrainedConfig, config: PretrainedConfig, where: str) -> None:
    """Refuse a source that computes something that the mixture's class does not."""
    old, new = family_of(source), family_of(config)
    for key in old.kept:
        before, after = getattr(source, key, None), getattr(config, key, None)
        # What is off is null with one class and false with another.
        if before != after and (before or after):
            raise UserError(
                f"{where}model_type: the source's {key} is {before!r}, and a {config.model_type} has {after!r} in its place; "
                "it would compute something else"
            )
    sliding = "sliding_attention" in (getattr(source, "layer_types", None) or ())
    if sliding and getattr(config, "layer_types", None) != source.layer_types:
        raise UserError(f"{where}model_type: the source has layers with a window, which a {config.model_type} has not by layer")
    theirs = new.graph(config).tensors()
    lost = [
        name
        for name, tensor in old.graph(source).tensors().items()
        if name not in theirs and not (tensor.layer is not None and ".mlp." in name and name.endswith(".weight"))
    ]
    if lost:
        raise UserError(f"{where}model_type: the source's {lost[0]} has no place in a {config.model_type}; it cannot be kept")
