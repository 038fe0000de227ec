"""One run from small to large: a model's smaller sizes, how long each is trained, and how each grows into the next.

The section stands in the place of `source`, `target`, `growth` and `stages`, which it is written out as when the recipe is read.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from data_prep.config import StrictModel, validate
from data_prep.errors import UserError
from pipeline.recipe.growth import AUTO, GrowthConfig
from pipeline.recipe.models import ModelConfig, SizeConfig
from pipeline.recipe.stages import LengthConfig

SECTION = "progressive"
"""The section's key in a recipe."""

WRITTEN_OUT = ("source", "target", "growth", "stages", "final_model")
"""What the section is written out as."""

TARGET_STAGE = "target"
"""The name of the last stage, which trains the whole model."""

_GROWS = {"optimizer_state": "grow"}
"""Said of each growth that does not say otherwise: within one run there is a state to grow."""

_DECAY = 0.2
"""The share of the run over which the rate falls (Haegele et al. 2024: 10 to 20 %), where the recipe does not say."""

_WARMUP = 0.01
"""The share of the run over which the rate climbs, where the recipe does not say and the steps are known."""

_WARMUP_STEPS = 100
"""The steps of the warmup where they are not."""

_LAYER_KINDS = Path(__file__).parents[1] / "families" / "layer_kinds.json"


_KEYS = tuple(SizeConfig.model_fields)

_WITH_WIDTH = ("num_attention_heads", "intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size")
"""Sizes in a ratio to `hidden_size`."""

Share = Annotated[float, Field(gt=0, lt=1)]


class ProgressiveConfig(LengthConfig):
    """A run of one model from small to large; its length is that of the whole run."""

    model: ModelConfig
    """The model that the run ends with."""
    sizes: Literal[AUTO] | Annotated[list[SizeConfig], Field(min_length=1)] = AUTO
    """The smaller models, in the order in which they are trained; the model itself comes last."""
    shares: Literal[AUTO] | list[Share] = AUTO
    """The share of the run's length for which each of them is trained; what is left trains the model itself."""
    growth: Literal[AUTO] | list[GrowthConfig] = AUTO
    """The growth section of each growth; what the optimizer keeps grows where they do not say otherwise."""

    @model_validator(mode="after")
    def _has_length(self) -> "ProgressiveConfig":
        if self.length is None:
            raise ValueError("the length of the whole run is missing: steps, epochs, tokens or flops")
        return self


class _Holder(StrictModel):
    """The recipe as far as this section goes, so that its keys are named by their place there."""

    progressive: ProgressiveConfig


def auto_sizes(layers: int, enough: int) -> list[int]:
    """Return the depths of the smaller models where the recipe leaves them open.

    `enough` layers have one of each kind that the model has: of most models 1. One layer is trained first, for it learns most of
    what the first half of a run teaches and costs least; a quarter of the model's layers stands between, where that is a growth
    of its own, since two smaller growths lose less than one large one.
    """
    depths = [enough, layers // 4] if layers // 4 >= 2 * enough else [enough]
    return [depth for depth in depths if depth < layers]


def auto_shares(sizes: int) -> list[float]:
    """Return the share of the run of each of so many smaller models: .6 of one; of several .5 of the first, .2 of the others.

    At least .3 is left to the model itself, so that the rate's decay, the last .2, lies wholly within its training.
    """
    return [0.6] if sizes == 1 else [0.5, *[round(0.2 / (sizes - 1), 4)] * (sizes - 1)]


def written_out(content: Mapping[str, Any], origin: str) -> tuple[dict[str, Any], list[str]]:
    """Return a recipe's content with the section, where it has one, written out; and what `auto` took, each with the reason.

    Raises UserError, which begins with `origin`, naming the key and what to do.
    """
    if SECTION not in content:
        return dict(content), []
    beside = [key for key in WRITTEN_OUT if key in content]
    if beside:
        where = f"{SECTION}.growth says how the model grows" if beside[0] == "growth" else f"{SECTION} is written out as it"
        raise UserError(f"{origin}: {beside[0]}: {where}; leave out {beside[0]}, or {SECTION}")
    section = validate(_Holder, {SECTION: content[SECTION]}, origin).progressive
    where = f"{origin}: {SECTION}."
    model = section.model.model_dump(exclude_none=True)
    kinds = _layer_kinds(model)
    patches, said = _patches(section, kinds, where)
    models = [*(_sized(model, patch, number, where) for number, patch in enumerate(patches)), model]
    for number, (small, large) in enumerate(itertools.pairwise(models)):
        _check_order(small, large, number, where)
    growths, chosen = _growths(section, models, where)
    shares, of_shares = _shares(section, len(patches), where)
    lengths = _lengths(section, shares, where)
    schedule, of_schedule = _schedule(content, section, shares, origin)
    unit, _ = section.length
    # Dropout is 0 in a grown model unless it is said to be as it was.
    kept = {"dropout": None} if section.model.dropout else {}
    stages: list[dict[str, Any]] = []
    for number, (small, large) in enumerate(itertools.pairwise(models)):
        stages.append({"name": f"size-{number + 1}", unit: lengths[number]})
        grow = _differing(small, large) | kept
        stages.append({"name": f"grow-{number + 1}", "grow": grow, "growth": growths[number]})
    stages.append({"name": TARGET_STAGE, unit: lengths[-1]})
    others = {key: value for key, value in content.items() if key not in (SECTION, "schedule")}
    recipe = others | {
        "source": {"model": models[0]},
        "target": kept,
        "stages": stages,
        "final_model": model,
        "schedule": schedule,
    }
    return recipe, [*said, *of_shares, *chosen, *of_schedule]


def _patches(section: ProgressiveConfig, kinds: Sequence[Any], where: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The smaller sizes, and why they are these."""
    if section.sizes != AUTO:
        return [size.model_dump(exclude_none=True) for size in section.sizes], []
    enough = max(kinds.index(kind) for kind in kinds) + 1
    depths = auto_sizes(len(kinds), enough)
    if not depths:
        raise UserError(
            f"{where}sizes: auto takes models of fewer layers, and of {len(kinds)} layers there is none that has a layer of "
            "each kind; name sizes, for instance [{hidden_size: ...}]"
        )
    least = "a single layer" if enough == 1 else f"{enough} layers, the fewest that have one of each kind"
    reason = f"{least}, learn most of what the beginning of a run teaches, for the least compute"
    if enough == 1:
        reason = reason.replace("learn", "learns", 1).replace("layer,", "layer", 1)
    if len(depths) > 1:
        reason += f"; {depths[1]}, a quarter of the model's, so that no growth is too large at once"
    sizes = ", ".join(f"{{num_hidden_layers: {depth}}}" for depth in depths)
    return [{"num_hidden_layers": depth} for depth in depths], [f"sizes: [{sizes}], since {reason}"]


def _shares(section: ProgressiveConfig, sizes: int, where: str) -> tuple[list[float], list[str]]:
    """The share of the run of each smaller size, and why."""
    if section.shares == AUTO:
        shares = auto_shares(sizes)
        left = 1 - sum(shares)
        return shares, [
            f"shares: {shares}, since small models learn cheaply, and {left:.2g} of the run is enough for the model"
        ]
    shares = section.shares
    if len(shares) != sizes:
        raise UserError(
            f"{where}shares: there are {len(shares)} for {sizes} sizes; name one for each size but the model itself, which has "
            "what is left"
        )
    if sum(shares) >= 1 - 1e-9:
        raise UserError(
            f"{where}shares: they sum to {sum(shares):g} and leave nothing to the model itself; make the sum less than 1"
        )
    return shares, []


def _lengths(section: ProgressiveConfig, shares: Sequence[float], where: str) -> list[float]:
    """The length of each stage, in the unit of the whole."""
    unit, whole = section.length
    if unit not in ("steps", "tokens"):
        lengths = [share * whole for share in shares]
        return [*lengths, whole - sum(lengths)]
    lengths = [round(share * whole) for share in shares]
    lengths.append(int(whole) - sum(lengths))
    short = [number for number, length in enumerate(lengths) if length < 1]
    if short:
        share = [*shares, 1 - sum(shares)][short[0]]
        raise UserError(f"{where}{unit}: {share:.3g} of {whole:,} is less than one of the {unit}; make the run longer")
    return lengths


def _schedule(
    content: Mapping[str, Any], section: ProgressiveConfig, shares: Sequence[float], origin: str
) -> tuple[dict[str, Any], list[str]]:
    """The schedule, which spans the run, and why."""
    given = content.get("schedule", {})
    if not isinstance(given, dict):  # which is refused with the rest of the recipe
        return given, []
    schedule: dict[str, Any] = {"name": "wsd", "span": "run"} | given
    reasons = []
    if schedule["name"] == "wsd":
        schedule = {"decay_ratio": _DECAY} | schedule
        decay, left = schedule["decay_ratio"], 1 - sum(shares)
        unit, _ = section.length
        # FLOPs fall to later stages more than steps do: that is known when the models are.
        if schedule["span"] == "run" and unit != "flops" and isinstance(decay, int | float) and decay > left + 1e-9:
            raise UserError(
                f"{origin}: schedule.decay_ratio: the rate would fall over the last {decay:g} of the run, and the model itself "
                f"is trained for {left:.3g} of it; make it at most that, or {SECTION}.shares smaller"
            )
        if "name" not in given:
            reasons.append("schedule: wsd over the whole run, since each growth then comes at the full rate, before the decay")
    if "warmup_steps" not in given and schedule["name"] != "inverse_sqrt":
        schedule["warmup_steps"] = _warmup(content, section)
    return schedule, reasons


def _warmup(content: Mapping[str, Any], section: ProgressiveConfig) -> int:
    unit, whole = section.length
    data = content.get("data")
    batch, length = content.get("train_batch_size", 32), data.get("sequence_length", 128) if isinstance(data, dict) else 128
    if unit == "tokens" and isinstance(batch, int) and isinstance(length, int):
        whole /= max(1, batch * length)
    elif unit != "steps":
        return _WARMUP_STEPS
    return max(1, round(_WARMUP * whole))


def _growths(
    section: ProgressiveConfig, models: Sequence[Mapping[str, Any]], where: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """The growth section of each growth, and why."""
    count = len(models) - 1
    if section.growth != AUTO:
        if len(section.growth) != count:
            raise UserError(
                f"{where}growth: there are {len(section.growth)} for {count} growths; name one for each size, which says how it "
                "grows into the next"
            )
        return [_GROWS | growth.model_dump(mode="json", exclude_unset=True) for growth in section.growth], []
    growths = [_auto_growth(small, large) for small, large in itertools.pairwise(models)]
    reasons = ["growth.optimizer_state: grow, since the run goes on at the full rate"]
    depths = {growth.get("depth") for growth in growths}
    if "stack" in depths:
        reasons.append("growth.depth: stack, which is not exact: copies that are active at once end better than silent ones")
    if "list" in depths:
        reasons.append(
            "growth.depth: list, as stack does, each layer from one of its own kind (window, positions, experts), which a "
            "growth keeps"
        )
    return growths, reasons


def _auto_growth(small: Mapping[str, Any], large: Mapping[str, Any]) -> dict[str, Any]:
    growth: dict[str, Any] = dict(_GROWS)
    old, new = _layer_kinds(small), _layer_kinds(large)
    if len(new) == len(old):
        return growth
    if len(set(new)) == 1:
        return growth | {"depth": "stack"}
    of_kind = {kind: [layer for layer, each in enumerate(old) if each == kind] for kind in set(new)}
    if not all(of_kind.values()):
        # Refused with the plan, which names the layer.
        return growth | {"depth": "stack"}
    seen = dict.fromkeys(of_kind, 0)
    layers = []
    for kind in new:
        layers.append(of_kind[kind][seen[kind] % len(of_kind[kind])])
        seen[kind] += 1
    return growth | {"depth": "list", "layers": layers}


def _layer_kinds(model: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Of each layer of a model what sort its family makes of it, and whether it is one without experts."""
    pattern = json.loads(_LAYER_KINDS.read_text(encoding="utf-8")).get(model["family"], "-")
    dense = model.get("mlp_only_layers", [])
    return [(pattern[layer % len(pattern)], layer in dense) for layer in range(model["num_hidden_layers"])]


def _sizes_said(model: Mapping[str, Any]) -> dict[str, int | None]:
    """All sizes of a model, those that it leaves out as ModelConfig has them; None where the family decides."""
    hidden, heads = model["hidden_size"], model["num_attention_heads"]
    implied = {"num_key_value_heads": heads, "head_dim": hidden // heads, "intermediate_size": 4 * hidden}
    return {key: model.get(key, implied.get(key)) for key in _KEYS}


def _sized(model: Mapping[str, Any], patch: Mapping[str, int], number: int, where: str) -> dict[str, Any]:
    """Return a model at a smaller size; raises UserError where a size that is not named would be no whole number."""
    place = f"{where}sizes.{number}"
    whole, sized = _sizes_said(model), dict(model) | dict(patch)
    for key in patch:
        if whole[key] is None:
            raise UserError(f"{place}.{key}: {SECTION}.model does not say its own {key}; name it there too")

    def scaled(key: str, by: str) -> None:
        if key in patch or key not in model or by not in model:
            return
        sized[key], rest = divmod(model[key] * sized[by], model[by])
        if rest or not sized[key]:
            raise UserError(
                f"{place}.{key}: the model's {model[key]} does not scale by {by} {model[by]} -> {sized[by]} to a whole number; "
                "name one"
            )

    for key in _WITH_WIDTH:
        scaled(key, "hidden_size")
    scaled("num_key_value_heads", "num_attention_heads")
    scaled("num_experts_per_tok", "num_experts")
    if "mlp_only_layers" in model:
        sized["mlp_only_layers"] = [layer for layer in model["mlp_only_layers"] if layer < sized["num_hidden_layers"]]
    if "head_dim" not in sized and sized["hidden_size"] % sized["num_attention_heads"]:
        raise UserError(
            f"{place}: hidden_size {sized['hidden_size']} is no multiple of num_attention_heads "
            f"{sized['num_attention_heads']}; name another of the two"
        )
    return sized


def _check_order(small: Mapping[str, Any], large: Mapping[str, Any], number: int, where: str) -> None:
    """Raise UserError for a size that is larger than the next one, or is the next one."""
    old, new = _sizes_said(small), _sizes_said(large)
    for key in _KEYS:
        if old[key] is not None and old[key] > new[key]:
            raise UserError(
                f"{where}sizes.{number}: its {key} {old[key]} is larger than the next size's {new[key]}; sizes go from small to "
                "large, up to the model itself"
            )
    if old == new:
        raise UserError(f"{where}sizes.{number}: it is the next size, so that nothing would grow; leave it out")


def _differing(small: Mapping[str, Any], large: Mapping[str, Any]) -> dict[str, int]:
    """The sizes that a growth names: those that change, and with the width all that would else be derived from it."""
    new = _sizes_said(large)
    said = [key for key in _KEYS if key in small or key in large]
    wider = small["hidden_size"] != large["hidden_size"]
    derived = (*_WITH_WIDTH, "num_key_value_heads")
    return {key: new[key] for key in said if small.get(key) != large.get(key) or (wider and key in derived)}
