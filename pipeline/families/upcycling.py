"""The configuration of a mixture of experts that a dense model is made into."""

from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig

from data_prep.errors import UserError
from pipeline.families.base import EXPERT_KEYS, sizes_of
from pipeline.families.registry import FAMILIES, family_of

MIXTURES = {"llama": "mixtral", "mistral": "mixtral", "qwen2": "qwen2_moe", "qwen3": "qwen3_moe"}
"""The mixtures whose layers are those of a dense family but for the feed-forward network."""


def upcycled_config(
    source: PretrainedConfig, model_type: str, wanted: Mapping[str, int | None], where: str
) -> PretrainedConfig:
    """Return the configuration of a dense model made into a mixture of its source's sizes; `where` stands before keys.

    `wanted` says how many experts there are and how many a token goes through, and may say of how many units: a part of the
    source's FFN. Gates are renormalized over the experts that are chosen, which alone makes copies of the FFN compute what
    it does. Raises UserError naming the key.
    """
    experts, per_token, expert_units, shared_units = (wanted[key] for key in EXPERT_KEYS)
    if model_type not in MIXTURES.values():
        raise UserError(
            f"{where}model_type: {model_type!r} is not the source's {source.model_type!r}, which growth keeps; of dense "
            f"models mixtures are made: {', '.join(sorted(set(MIXTURES.values())))}"
        )
    if MIXTURES.get(source.model_type) != model_type:
        fits = MIXTURES.get(source.model_type)
        raise UserError(
            f"{where}model_type: a {source.model_type} does not become a {model_type}; "
            + (f"name {fits}" if fits else f"of dense models {', '.join(MIXTURES)} become mixtures of experts")
        )
    if experts is None or per_token is None:
        missing = "num_experts" if experts is None else "num_experts_per_tok"
        raise UserError(f"{where}{missing}: not given; say how many experts there are and how many a token goes through")
    if not 1 <= per_token <= experts:
        raise UserError(f"{where}num_experts_per_tok: {per_token} of {experts} experts; name at most all of them")
    family, sizes = FAMILIES[model_type], sizes_of(source)
    known = family.config_class.__dataclass_fields__
    said = {key: value for key, value in source.to_dict().items() if key in known and key != "model_type"}
    keys: dict[str, Any] = said | {
        "num_local_experts" if "num_local_experts" in known else "num_experts": experts,
        "num_experts_per_tok": per_token,
        "architectures": [family.model_class.__name__],
    }
    if "head_dim" in known:
        keys["head_dim"] = sizes.head_dim
    if "moe_intermediate_size" in known:
        keys["moe_intermediate_size"] = _expert_units(sizes.intermediate_size, expert_units, experts, per_token, where)
    elif expert_units is not None:
        raise UserError(f"{where}moe_intermediate_size: {model_type} has no such size; leave the key out")
    if "shared_expert_intermediate_size" in known:
        keys["shared_expert_intermediate_size"] = shared_units or sizes.intermediate_size
    elif shared_units is not None:
        raise UserError(f"{where}shared_expert_intermediate_size: {model_type} has no such size; leave the key out")
    if "norm_topk_prob" in known:
        keys["norm_topk_prob"] = True
    config = family.config_class(**keys)
    config.dtype = source.dtype
    _check_kept(source, config, where)
    return config


def _expert_units(whole: int, units: int | None, experts: int, per_token: int, where: str) -> int:
    if units is None:
        return whole
    pieces = -(-whole // units)
    if whole % pieces:
        raise UserError(
            f"{where}moe_intermediate_size: the source's {whole} units do not fall into {pieces} equal parts of up to {units}; "
            "name another size"
        )
    for key, count in (("num_experts", experts), ("num_experts_per_tok", per_token)):
        if count % pieces:
            raise UserError(
                f"{where}{key}: {count} is no multiple of the {pieces} experts that the source's FFN is cut into; name one"
            )
    # Experts of more units grow like others.
    return whole // pieces


def _check_kept(source: PretrainedConfig, config: PretrainedConfig, where: str) -> None:
    """Refuse a source that does something besides, of which the mixture's class knows nothing."""
    old, new = family_of(source), family_of(config)
    for key in old.kept:
        before, after = getattr(source, key, None), getattr(config, key, None)
        if before != after and not (key == "sliding_window" and not (before or after)):
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
