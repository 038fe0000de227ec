"""One run from small to large: a model's smaller sizes, how long each is trained, and how each grows into the next.

The section stands in the place of `source`, `target`, `growth` and `stages`: it is written out as these when it is read.
"""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from pipeline.common.config import StrictModel, validate
from pipeline.common.errors import UserError
from pipeline.recipe.auto import GROWS, auto_growth, auto_shares, auto_sizes
from pipeline.recipe.growth import AUTO, GrowthConfig
from pipeline.recipe.models import ModelConfig, SizeConfig
from pipeline.recipe.smaller import check_order, differing, layer_kinds, sized
from pipeline.recipe.stages import LengthConfig

SECTION = "progressive"
"""The section's key in a recipe."""

WRITTEN_OUT = ("source", "target", "growth", "stages", "final_model")
"""What the section is written out as."""

TARGET_STAGE = "target"
"""The name of the last stage, which trains the whole model."""

_DECAY = 0.2
"""The share of the run over which the rate falls (Haegele et al. 2024: 10 to 20 %), where the recipe does not say."""

_WARMUP = 0.01
"""The share of the run over which the rate climbs, where the recipe does not say and the steps are known."""

_WARMUP_STEPS = 100
"""The steps of the warmup where they are not."""

Share = Annotated[float, Field(gt=0, lt=1)]


_AUTO_IS_NONE = BeforeValidator(lambda value: None if value == AUTO else value)

_ONE_IS_OF_ALL = BeforeValidator(lambda value: [value] if isinstance(value, dict) else value)

_Growth = Annotated[GrowthConfig, BeforeValidator(lambda value: GROWS | value if isinstance(value, dict) else value)]


class ProgressiveConfig(LengthConfig):
    """A run of one model from small to large; its length is that of the whole run. What is `auto`, or not given, is chosen."""

    model: ModelConfig
    """The model that the run ends with."""
    sizes: Annotated[Annotated[list[SizeConfig], Field(min_length=1)] | None, _AUTO_IS_NONE] = None
    """The smaller models, in the order in which they are trained; the model itself comes last."""
    shares: Annotated[list[Share] | None, _AUTO_IS_NONE] = None
    """The share of the run's length for which each of them is trained; what is left trains the model itself."""
    growth: Annotated[list[_Growth] | None, _ONE_IS_OF_ALL, _AUTO_IS_NONE] = None
    """The growth section of each growth, or one for all; what the optimizer keeps grows where they do not say otherwise."""

    @model_validator(mode="after")
    def _has_length(self) -> "ProgressiveConfig":
        _ = self.whole
        return self

    @property
    def whole(self) -> tuple[str, float]:
        """The unit of the run's length, and the number."""
        if self.length is None:
            raise ValueError("the length of the whole run is missing: steps, epochs, tokens or flops")
        return self.length


class _Holder(StrictModel):
    """The recipe as far as this section goes, so that its keys are named by their place there."""

    progressive: ProgressiveConfig


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
    kinds = layer_kinds(model)
    patches, said = _patches(section, kinds, where)
    models = [*(sized(model, patch, number, where) for number, patch in enumerate(patches)), model]
    for number, (small, large) in enumerate(itertools.pairwise(models)):
        check_order(small, large, number, where)
    of_all = isinstance(content[SECTION].get("growth"), dict)
    growths, chosen = _growths(section, models, where, of_all)
    shares, of_shares = _shares(section, len(patches), where)
    lengths = _lengths(section, shares, where)
    schedule, of_schedule = _schedule(content, section, shares, origin)
    unit, _ = section.whole
    # Dropout is 0 in a grown model unless it is said to be as it was.
    kept = {"dropout": None} if section.model.dropout else {}
    stages: list[dict[str, Any]] = []
    for number, (small, large) in enumerate(itertools.pairwise(models)):
        stages.append({"name": f"size-{number + 1}", unit: lengths[number]})
        grow = differing(small, large) | kept
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


def as_written(content: Mapping[str, Any]) -> Callable[[str], str]:
    """Return what gives a message on a recipe that was written out the keys that `content` has in the place of those."""
    if SECTION not in content:
        return str
    section, stages = content[SECTION], written_out(content, "")[0]["stages"]
    keys = {"final_model": f"{SECTION}.model"}
    for number, stage in enumerate(stages[1::2]):
        for key, own, item in (("grow", "sizes", number + 1), ("growth", "growth", number)):
            keys[f"stages.{stage['name']}.{key}"] = f"{SECTION}.{own}" + f".{item}" * isinstance(section.get(own), list)
    # The last growth comes to the model itself.
    keys[f"stages.{stages[-2]['name']}.grow"] = f"{SECTION}.model"
    # Of a stage's other keys the section has its length.
    keys |= {f"stages.{stage['name']}": SECTION for stage in stages}
    # No part of a path.
    named = re.compile(rf"(?<![\w/.-])({'|'.join(map(re.escape, keys))})(?![\w/])")
    return lambda message: named.sub(lambda match: keys[match[0]], message)


def _patches(section: ProgressiveConfig, kinds: Sequence[Any], where: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The smaller sizes, and why they are these."""
    if section.sizes is not None:
        return [size.model_dump(exclude_none=True) for size in section.sizes], []
    enough = max(kinds.index(kind) for kind in kinds) + 1
    depths = auto_sizes(len(kinds), enough)
    if not depths:
        none = (
            "one layer has no smaller depth" if len(kinds) == 1 else f"none of fewer than {len(kinds)} has a layer of each kind"
        )
        raise UserError(
            f"{where}sizes: auto takes models of fewer layers, and {none}; name sizes, for instance [{{hidden_size: ...}}]"
        )
    reason = "each size learns for less compute than the next one while the loss is high, and no growth is too large at once"
    if depths[0] == enough > 1:
        reason += f"; {enough} layers are the fewest that have one of each kind"
    sizes = ", ".join(f"{{num_hidden_layers: {depth}}}" for depth in depths)
    return [{"num_hidden_layers": depth} for depth in depths], [f"sizes: [{sizes}], since {reason}"]


def _shares(section: ProgressiveConfig, sizes: int, where: str) -> tuple[list[float], list[str]]:
    """The share of the run of each smaller size, and why."""
    if section.shares is None:
        if section.whole[0] == "flops":
            raise UserError(
                f"{where}shares: auto is of tokens, and as much of the FLOPs would be far more tokens at the first size; name "
                "shares of the FLOPs, or give the length in steps, tokens or epochs"
            )
        shares = auto_shares(sizes)
        left = 1 - sum(shares)
        return shares, [
            f"shares: {shares}, by which runs of a GPT-2 saved 13 % of the compute at 25 tokens for each parameter, nothing "
            f"at 100; {left:.2g} of the run is left for the model"
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
    unit, whole = section.whole
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
        unit, _ = section.whole
        # FLOPs fall to later stages more than steps do: that is known when the models are.
        if schedule["span"] == "run" and unit != "flops" and isinstance(decay, int | float) and decay > left + 1e-9:
            raise UserError(
                f"{origin}: schedule.decay_ratio: the rate would fall over the last {decay:g} of the run, and the model itself "
                f"is trained for {left:.3g} of it; make it at most that, or {SECTION}.shares smaller"
            )
        if "name" not in given:
            whole = " over the whole run, since each growth then comes at the full rate, before the decay"
            reasons.append("schedule: wsd" + whole * (schedule["span"] == "run"))
    if "warmup_steps" not in given and schedule["name"] != "inverse_sqrt":
        schedule["warmup_steps"] = _warmup(content, *section.whole)
    return schedule, reasons


def _warmup(content: Mapping[str, Any], unit: str, whole: float) -> int:
    data = content.get("data")
    batch, length = content.get("train_batch_size", 32), data.get("sequence_length", 128) if isinstance(data, dict) else 128
    if unit == "tokens" and isinstance(batch, int) and isinstance(length, int):
        whole /= max(1, batch * length)
    elif unit != "steps":
        return _WARMUP_STEPS
    return max(1, round(_WARMUP * whole))


def _growths(
    section: ProgressiveConfig, models: Sequence[Mapping[str, Any]], where: str, of_all: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """The growth section of each growth, and why; `of_all` where the recipe has one for all of them."""
    count = len(models) - 1
    if section.growth is not None:
        given = section.growth * count if of_all else section.growth
        if of_all and count > 1 and given[0].layers is not None:
            raise UserError(
                f"{where}growth.layers: a list of layers is of one growth, and the run grows {count} times; name a section for "
                "each size"
            )
        if len(given) != count:
            raise UserError(
                f"{where}growth: its length is {len(section.growth)}, and the run grows {count} times; name a section for each "
                "size, which says how it grows into the next, or one for all, which is no list"
            )
        return [growth.model_dump(mode="json", exclude_unset=True) for growth in given], []
    growths = [auto_growth(small, large) for small, large in itertools.pairwise(models)]
    reasons = ["growth.optimizer_state: grow, since the run goes on at the full rate"]
    if any("layers" in growth for growth in growths):
        reasons.append(
            "growth.depth: list, in which each copy is of a layer of its own kind (window, positions, experts) and adds "
            "nothing at first"
        )
    elif any(small["num_hidden_layers"] != large["num_hidden_layers"] for small, large in itertools.pairwise(models)):
        reasons.append(
            "growth.depth: auto, copies that add nothing at first, which is exact for all but post-LN models; runs of a GPT-2 "
            "ended lower than with copies that are active at once at 25 tokens for each parameter, and higher at 100"
        )
    return growths, reasons
