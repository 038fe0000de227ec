"""Smaller sizes of a model that is to be trained from scratch, and what a growth from one to the next names."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.common.errors import UserError
from pipeline.recipe.models import SizeConfig

_KEYS = tuple(SizeConfig.model_fields)

_WITH_WIDTH = ("num_attention_heads", "intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size")
"""Sizes in a ratio to `hidden_size`."""

_LAYER_KINDS = Path(__file__).parents[1] / "families" / "layer_kinds.json"
"""Of families whose layers are of several kinds, the pattern in which they repeat (windows, positions), a letter for each."""


def layer_kinds(model: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Of each layer of a model what sort its family makes of it, and whether it is one without experts."""
    pattern = json.loads(_LAYER_KINDS.read_text(encoding="utf-8")).get(model["family"], "-")
    dense = model.get("mlp_only_layers", [])
    return [(pattern[layer % len(pattern)], layer in dense) for layer in range(model["num_hidden_layers"])]


def sizes_said(model: Mapping[str, Any]) -> dict[str, int | None]:
    """All sizes of a model, those that it leaves out as ModelConfig has them; None where the family decides."""
    hidden, heads = model["hidden_size"], model["num_attention_heads"]
    implied = {"num_key_value_heads": heads, "head_dim": hidden // heads, "intermediate_size": 4 * hidden}
    return {key: model.get(key, implied.get(key)) for key in _KEYS}


def sized(model: Mapping[str, Any], patch: Mapping[str, int], number: int, where: str) -> dict[str, Any]:
    """Return a model at a smaller size; raises UserError where a size that is not named would be no whole number."""
    place = f"{where}sizes.{number}"
    whole, smaller = sizes_said(model), dict(model) | dict(patch)
    for key in patch:
        if whole[key] is None:
            raise UserError(f"{place}.{key}: progressive.model does not set {key}; set it there too")

    def scaled(key: str, by: str) -> None:
        if key in patch or key not in model or by not in model:
            return
        smaller[key], rest = divmod(model[key] * smaller[by], model[by])
        if rest and key == "num_key_value_heads" and smaller[by] % model[key] == 0:
            smaller[key] = model[key]
        elif rest or not smaller[key]:
            raise UserError(
                f"{place}.{key}: the model's {model[key]} does not scale by {by} {model[by]} -> {smaller[by]} to a whole "
                "number; name one"
            )

    for key in _WITH_WIDTH:
        scaled(key, "hidden_size")
    scaled("num_key_value_heads", "num_attention_heads")
    scaled("num_experts_per_tok", "num_experts")
    if "mlp_only_layers" in model:
        smaller["mlp_only_layers"] = [layer for layer in model["mlp_only_layers"] if layer < smaller["num_hidden_layers"]]
    if "head_dim" not in smaller and smaller["hidden_size"] % smaller["num_attention_heads"]:
        raise UserError(
            f"{place}: hidden_size {smaller['hidden_size']} is no multiple of num_attention_heads "
            f"{smaller['num_attention_heads']}; name another of the two"
        )
    return smaller


def check_order(small: Mapping[str, Any], large: Mapping[str, Any], number: int, where: str) -> None:
    """Raise UserError for a size that is larger than the next one, or is the next one."""
    old, new = sizes_said(small), sizes_said(large)
    for key in _KEYS:
        before, after = old[key], new[key]
        if before is not None and after is not None and before > after:
            raise UserError(
                f"{where}sizes.{number}: its {key} {before} is larger than the next size's {after}; sizes go from small to "
                "large, up to the model itself"
            )
    if old == new:
        raise UserError(f"{where}sizes.{number}: it equals the next size, so that nothing would grow; leave it out")


def differing(small: Mapping[str, Any], large: Mapping[str, Any]) -> dict[str, int | None]:
    """The sizes that a growth names: those that change, and with the width all that would else be derived from it."""
    new = sizes_said(large)
    said = [key for key in _KEYS if key in small or key in large]
    wider = small["hidden_size"] != large["hidden_size"]
    derived = (*_WITH_WIDTH, "num_key_value_heads")
    return {key: new[key] for key in said if small.get(key) != large.get(key) or (wider and key in derived)}
