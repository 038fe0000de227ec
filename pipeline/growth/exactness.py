"""What a growth preserves, known by rule before anything is computed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from pipeline.families import AxisKind
from pipeline.growth.depth import adds_only_silent_layers
from pipeline.growth.operators import Residual, Units, query_key_factor
from pipeline.growth.plan import GrowthPlan
from pipeline.growth.sides import INIT


class Verdict(StrEnum):
    """How the grown model's function relates to the source's."""

    EXACT = "exact"
    APPROXIMATE = "approximate"
    """The operator would preserve the function, and cannot at these sizes or in this family."""
    BY_DESIGN = "inexact by design"
    """The operator or an option changes the function on purpose."""


@dataclass(frozen=True, slots=True)
class Departure:
    """One reason why the grown model computes something else than its source."""

    cause: str
    by_design: bool


def verdict(departures: list[Departure]) -> Verdict:
    """Return what the departures come to."""
    if not departures:
        return Verdict.EXACT
    return Verdict.BY_DESIGN if any(departure.by_design for departure in departures) else Verdict.APPROXIMATE


def predict(plan: GrowthPlan) -> list[Departure]:
    """Return every departure from the source's function; none where the growth is exact.

    Logits are compared over the source's vocabulary and its positions: larger ones add entries and take nothing away.
    """
    return [*_residual(plan), *_units(plan), *_options(plan), *_depth(plan)]


_EXACT = {
    "layer_norm": (Residual.MEAN, Residual.MEAN_OF_COPIES),
    "rms_norm": (Residual.ZERO, Residual.SQRT_COPY),
}
"""What a pre-norm family's norm does not see, at any ratio."""


def _residual(plan: GrowthPlan) -> list[Departure]:
    residual, family = plan.maps[AxisKind.RESIDUAL], plan.family
    if not residual.grows:
        return []
    norm = "LayerNorm" if family.norm == "layer_norm" else "RMSNorm"
    where = (
        f"{family.name} {'pre' if family.pre_norm else 'post'}-norm at x{plan.target.hidden_size / plan.source.hidden_size:g}"
    )
    rule = plan.operator.residual
    if rule in (Residual.SMALL, Residual.INIT):
        return [Departure(f"{where}: new channels of the residual stream hold {rule.value}, which {norm} takes in", True)]
    copies = rule in (Residual.COPY, Residual.SQRT_COPY, Residual.MEAN_OF_COPIES)
    # Whole copies keep the statistics of any norm; beyond them each norm has rules of its own.
    exact = (copies and residual.balanced) or (family.pre_norm and rule in _EXACT[family.norm])
    exact |= rule is Residual.COPY and plan.growth.norm_statistics == "weighted"
    if exact:
        return []
    if rule in (Residual.COPY, Residual.SQRT_COPY):
        counts = " and ".join(f"{count:g}" for count in sorted(set(residual.counts.tolist())))
        return [Departure(f"{where}: counts {counts} under one {norm}", False)]
    return [Departure(f"{where}: {rule.value} in new channels of the residual stream shift what {norm} takes", False)]


def _units(plan: GrowthPlan) -> list[Departure]:
    operator = plan.operator
    grown = [kind.value for kind in (AxisKind.HEADS, AxisKind.FFN) if plan.maps[kind].grows]
    if plan.target.head_dim > plan.source.head_dim:
        grown.append("head_dim")
    departures = []
    if grown and operator.units in (Units.SMALL, Units.INIT):
        departures.append(Departure(f"new {' and '.join(grown)} hold {operator.units.value} that are heard at once", True))
    repeated = any(not bool(axis_map.own.all()) for axis_map in plan.maps.values())
    if operator.next_layer and plan.source.num_hidden_layers > 1 and repeated:
        departures.append(Departure("new rows come from the next layer (advanced knowledge)", True))
    return departures


def _options(plan: GrowthPlan) -> list[Departure]:
    growth = plan.growth
    departures = []
    widens = any(axis_map.grows for axis_map in plan.maps.values()) or plan.target.head_dim > plan.source.head_dim
    if growth.width == "nai" and growth.symmetry == "none" and growth.noise and widens:
        departures.append(Departure(f"noise of {growth.noise:g} standard deviations lies on the new rows and columns", True))
    factors = [query_key_factor(plan.source, plan.target, paper) for paper in (True, False)]
    if growth.paper_factor and not math.isclose(*factors):
        departures.append(
            Departure("NAI eq. 14's factor sharpens every head, since scores are divided by sqrt(d_k) and not by sqrt(D)", True)
        )
    longer = plan.target.max_position_embeddings > plan.source.max_position_embeddings
    if growth.positions == "interpolate" and longer and not plan.family.rotary:
        departures.append(Departure("positions are stretched over the longer table", True))
    return departures


def _depth(plan: GrowthPlan) -> list[Departure]:
    added = [origin for origin in plan.layers if origin.added]
    if adds_only_silent_layers(plan.layers, plan.source.num_hidden_layers):
        if added and not plan.family.pre_norm:
            return [Departure("an added layer normalizes again, and LN(LN(x)) is not LN(x) in a post-LN model", False)]
        return []
    departures = []
    if [origin.source for origin in plan.layers if not origin.added] != list(range(plan.source.num_hidden_layers)):
        departures.append(Departure("the source's layers are reordered or left out", True))
    if any(origin.source is None for origin in added):
        departures.append(Departure("added layers are random and change what they pass on", True))
    elif added:
        departures.append(Departure("added layers repeat the source's and change what they pass on", True))
    return departures


def predict_moments(plan: GrowthPlan) -> list[str]:
    """Return why Adam's grown moments are not those that the source's own gradients would have come to; none where they are.

    What starts without moments is no departure: `step` says so, element by element.
    """
    causes = [departure.cause for departure in predict(plan)]
    grown = plan.maps[AxisKind.RESIDUAL].grows
    if grown and plan.family.norm == "layer_norm" and INIT in plan.sides[AxisKind.RESIDUAL, "", "in"].codes:
        causes.append("readers of new channels enter the mean that LayerNorm takes from its gradient")
    if plan.growth.symmetry != "none":
        causes.append("twins that are told apart have gradients of their own")
    return causes


_COPIES = (Residual.COPY, Residual.SQRT_COPY, Residual.MEAN_OF_COPIES)


def predict_twins(plan: GrowthPlan) -> list[str]:
    """Return the axes whose new indices are copies that training cannot tell from what they copy, by kind.

    What is read and written alike has the same gradient: the model goes on as one of the source's width. Dropout alone,
    which draws for each unit, would part them.
    """
    operator, growth = plan.operator, plan.growth
    if growth.symmetry != "none" or (growth.width == "nai" and growth.noise) or operator.next_layer:
        return []
    residual = plan.maps[AxisKind.RESIDUAL]
    # Channels at the mean are read at random, by each copy of a unit in its own way.
    whole = operator.residual is not Residual.MEAN_OF_COPIES or residual.balanced
    stream = not residual.grows or (operator.residual in _COPIES and whole)
    units = stream and operator.units is Units.COPY and plan.target.head_dim == plan.source.head_dim
    kinds = ([AxisKind.RESIDUAL] if stream else []) + ([AxisKind.HEADS, AxisKind.FFN] if units else [])
    return [kind.value for kind in kinds if plan.maps[kind].grows]


def twins_warning(twins: Sequence[str]) -> list[str]:
    """Return what there is to say of a growth's twins, by the axes that have them."""
    if not twins:
        return []
    new = ", ".join(_NAMES[kind] for kind in twins)
    return [
        f"Training cannot tell new {new} from those that they copy, without dropout: the model learns as a narrower one; "
        "`symmetry: paired`, or width: exact_aki, tells them apart"
    ]


_NAMES = {"residual": "channels", "heads": "heads", "ffn": "FFN units"}


def promises(plan: GrowthPlan) -> list[str]:
    """Say why operators were chosen, what will be exact, what will not and why, and what will not learn."""
    departures = predict(plan)
    lines = [*plan.choices, f"function: {verdict(departures)}", *(f"  {departure.cause}" for departure in departures)]
    lines += [f"warning: {line}" for line in twins_warning(predict_twins(plan))]
    if plan.growth.optimizer_state == "grow":
        causes = predict_moments(plan)
        lines += [f"Adam's state: {'approximate' if causes else 'exact'}", *(f"  {cause}" for cause in causes)]
    return lines
