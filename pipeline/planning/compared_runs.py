"""How far the law is from runs that it has not seen: each left out in turn, and those that a plan predicted before they ran."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import fmean
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from data_prep.report.parts import Grid
from pipeline.common.errors import UserError
from pipeline.planning.law import Law, Training, fit, training_of
from pipeline.planning.predictions import HELD
from pipeline.planning.record import RunEntry, configuration, noted_sizes, section_of
from pipeline.planning.rules import STACKED_TOKENS
from pipeline.report.prose import whole_percent

_CLOSE = 3.0
"""Points of the compute saved."""


class PlannedRow(TypedDict):
    """A schedule in plan.json, as far as it is read again."""

    name: str
    setting: str
    sizes: list[dict[str, int]]
    tokens: list[int]
    """Of each size."""
    growths: list[dict[str, Any]]
    loss: float
    saved: float | None
    """None where the target from scratch would never come to the loss."""
    interval: list[float]


class Plan(TypedDict):
    """What plan.json holds."""

    schedules: list[PlannedRow]


@dataclass(frozen=True)
class ComparedRun:
    """A run beside what the other runs predict of it."""

    name: str
    predicted: float
    """Nats."""
    loss: float
    saved_predicted: float | None
    saved: float | None
    """None where the target from scratch never comes to the loss, by the law."""
    same_tokens: float
    """What it would save if a token were worth as much at every size, as the rule `2x` assumes."""
    stacked: float | None
    """What it would save by the speed that G_stack claims; None where it was not grown by stacking alone."""
    interval: tuple[float, float] | None = None
    """Of the predicted saving, where the prediction had one."""

    @property
    def points(self) -> float | None:
        """By how many points of the compute saved it was wrong; None where that is not known."""
        if self.saved_predicted is None or self.saved is None:
            return None
        return 100 * abs(self.saved_predicted - self.saved)


def most_off(compared: Sequence[ComparedRun]) -> float:
    """Return by how much nine of ten predicted savings were wrong at most, all of fewer than ten; 0 where there are none.

    One that is not known, since the target never comes to that loss, was wrong by as much as there is.
    """
    wrong = [1.0 if one.points is None else one.points / 100 for one in compared]
    return float(np.quantile(wrong, HELD, method="higher")) if wrong else 0.0


def left_out(law: Law, entries: Sequence[RunEntry], setting: str, *, ways: bool = False) -> list[ComparedRun]:
    """Predict the grown runs of each configuration of a setting by a fit on all runs of others (`mean_of`).

    With `ways` by a fit without any run of the setting that grew in the same way, of any sizes and lengths.
    """
    runs = [(training_of(entry), entry["loss"]) for entry in entries]
    alike: dict[str, list[tuple[RunEntry, Training]]] = {}
    for entry, (training, _) in zip(entries, runs, strict=True):
        if training.growths and training.setting == setting:
            alike.setdefault(configuration(entry), []).append((entry, training))

    def group_of(one: Training) -> Training | frozenset[tuple[str, ...]]:
        return frozenset(one.growths) if ways else one

    @cache
    def law_without(group: Training | frozenset[tuple[str, ...]]) -> Law:
        return fit([run for run in runs if run[0].setting != setting or group_of(run[0]) != group], law)

    alone = fit_alone(runs)
    found = []
    for group in alike.values():
        entry, training = group[0]
        other = law_without(group_of(training))
        predicted = other.loss(training)
        found.append(_compared(alone, mean_of([one for one, _ in group]), predicted, saved(other, entry, predicted)))
    return found


def fit_alone(runs: Sequence[tuple[Training, float]]) -> Law:
    """Return the law of the runs at one size alone, by which savings are measured: what growth does is no part of it."""
    return fit([(training, loss) for training, loss in runs if not training.growths])


def mean_of(entries: Sequence[RunEntry]) -> RunEntry:
    """Return runs that differ in their seeds alone as one, with the mean of their losses."""
    others = f" and {len(entries) - 1} with other seeds" if len(entries) > 1 else ""
    return entries[0] | {"name": entries[0]["name"] + others, "loss": fmean(entry["loss"] for entry in entries)}


def predicted_by(rows: Sequence[PlannedRow], entries: Sequence[RunEntry], *, others: bool = False) -> list[PlannedRow | None]:
    """Return the row of a plan that predicted each run, by sizes, tokens and growths.

    Raises UserError for a run of another setting (text, batch, optimizer, schedule), and for one that no row is of; where
    `others` may be among them, these have None.
    """
    settings = {row["setting"] for row in rows}
    by_schedule = {_key(row["sizes"], row["tokens"], row["growths"]): row for row in rows}
    found = []
    for entry in entries:
        setting = training_of(entry).setting
        # Plans of before have no hyperparameters in their settings.
        same = any(setting == one or setting.startswith(f"{one}, ") for one in settings)
        if not same and not others:
            raise UserError(
                f"--compare: {entry['name']} is a run of {setting}, and the plan is of {'; '.join(settings)}; make a plan with "
                "the run's own recipe"
            )
        phases = entry["phases"]
        sizes, tokens = [noted_sizes(phase) for phase in phases], [phase["tokens"] for phase in phases]
        row = by_schedule.get(_key(sizes, tokens, [section_of(growth) for growth in entry["growths"]]))
        if row is None and not others:
            raise UserError(f"--compare: the plan predicts no run of the sizes, tokens and growths of {entry['name']}")
        found.append(row if same else None)
    return found


def against_plan(law: Law, entries: Sequence[RunEntry], rows: Sequence[PlannedRow]) -> list[ComparedRun]:
    """Return runs beside the rows of a plan that predicted them (`predicted_by`), measured by a law (`fit_alone`).

    Runs that differ in their seeds alone share one row (`mean_of`).
    """
    by_seed: dict[tuple[str, float], list[tuple[RunEntry, PlannedRow]]] = {}
    for entry, row in zip(entries, rows, strict=True):
        by_seed.setdefault((configuration(entry), entry["lr"]), []).append((entry, row))
    found = []
    for pairs in by_seed.values():
        row = pairs[0][1]
        low, high = row["interval"]
        mean = mean_of([entry for entry, _ in pairs])
        found.append(replace(_compared(law, mean, row["loss"], row["saved"]), interval=(low, high)))
    return found


def _key(sizes: Sequence[Mapping[str, int]], tokens: Sequence[int], growths: Sequence[Mapping[str, Any]]) -> str:
    return repr(([sorted(each.items()) for each in sizes], list(tokens), [sorted(each.items()) for each in growths]))


def _compared(law: Law, entry: RunEntry, loss: float, saved_predicted: float | None) -> ComparedRun:
    by_stacking = all(growth["depth"] == "stack" and growth["width"] is None for growth in entry["growths"])
    last = entry["phases"][-1]
    flops = last["flops"] / last["tokens"]
    tokens = sum(phase["tokens"] for phase in entry["phases"])
    return ComparedRun(
        entry["name"],
        loss,
        entry["loss"],
        saved_predicted,
        saved(law, entry, entry["loss"]),
        same_tokens=1 - entry["flops"] / (tokens * flops),
        stacked=1 - entry["flops"] / (last["flops"] / STACKED_TOKENS) if by_stacking else None,
    )


def saved(law: Law, entry: RunEntry, loss: float) -> float | None:
    """Return what a run saves that comes to a loss: 1 - c / C, C being what its last size from scratch takes to that loss.

    C is of the law's curve of that size, which the runs of that size bind; None where that curve never comes to the loss.
    """
    last = entry["phases"][-1]
    tokens = law.tokens_to(training_of(entry).setting, last["parameters"], loss)
    return None if math.isinf(tokens) else 1 - entry["flops"] / (tokens * last["flops"] / last["tokens"])


def comparison_table(title: str, compared: Sequence[ComparedRun], note: str) -> Grid:
    """Return runs beside what was predicted of them, and how far rules of thumb were."""
    head = ["run", "predicted loss", "loss", "predicted saved", "saved", "points off"]
    rows = [
        [
            one.name,
            f"{one.predicted:.4f}",
            f"{one.loss:.4f}",
            whole_percent(one.saved_predicted),
            whole_percent(one.saved),
            "not known" if one.points is None else f"{one.points:.1f}",
        ]
        for one in compared
    ]
    known = [
        (one, one.saved_predicted, one.saved) for one in compared if one.saved_predicted is not None and one.saved is not None
    ]
    if not known:
        return Grid(title, head, rows, frozenset(), [note])
    law = [(predicted, saved) for _, predicted, saved in known]
    close = sum(100 * abs(predicted - saved) <= _CLOSE for predicted, saved in law)
    same_tokens = [(one.same_tokens, saved) for one, _, saved in known]
    stacked = [(predicted, one.stacked, saved) for one, predicted, saved in known if one.stacked is not None]
    sure = [one.interval[0] <= saved <= one.interval[1] for one, _, saved in known if one.interval is not None]
    far = [
        f"{close} of {len(known)} within {_CLOSE:.0f} points. Off by {_mean_error(law)} points in the mean; `2x`, by which a "
        f"token is worth as much at every size, by {_mean_error(same_tokens)}."
    ]
    if stacked:
        by_law = _mean_error([(predicted, saved) for predicted, _, saved in stacked])
        claim = _mean_error([(claimed, saved) for _, claimed, saved in stacked])
        far.append(f"Of the {len(stacked)} that stack, the law by {by_law}, G_stack's speed by {claim}.")
    if sure:
        far.append(f"{sum(sure)} of {len(sure)} within their 90 % interval.")
    return Grid(title, head, rows, frozenset(), [note, " ".join(far)])


def _mean_error(pairs: Sequence[tuple[float, float]]) -> str:
    """By how many points of the compute saved claims are off in the mean."""
    return f"{100 * fmean(abs(claimed - saved) for claimed, saved in pairs):.1f}"
