"""Methods against each other, in sentences: what limits the comparison, and what was saved."""

import statistics

from data_prep.report.numbers import counted
from pipeline.report import tables
from pipeline.report.comparison import VIEWS, savings
from pipeline.report.figures import Plot, amount
from pipeline.report.methods import Method, mixed, spread
from pipeline.report.parts import Part
from pipeline.report.recorded import RecordedRun

_FALLING = ("cosine", "linear", "wsd")
"""Schedules whose rate falls over all the steps of a model; those that do not reach their end with it."""

_SEEN = 8
"""Settings that are named before the rest is only counted."""

_NOTEWORTHY = 0.005
"""As a share of the baseline's compute: less is how far apart evaluations stand."""


def incomparable(methods: list[Method], baseline: Method | None) -> list[str]:
    """Return what limits a comparison."""
    runs = [run for method in methods for run in method.runs]
    lines = [
        f"The runs of {method.name} are not repetitions of one recipe, since they differ in {_listed(keys)}: their mean and "
        "spread mix methods."
        for method in methods
        if (keys := mixed(method))
    ]
    going = [] if baseline is None else [run for run in baseline.runs if not run.ended]
    if going and len(going) == len(baseline.runs):
        lines.append(
            f"{baseline.name}, the baseline, has not ended: what others save is measured against its loss as it stands now."
        )
    elif going:
        lines.append(
            f"{len(going)} of {len(baseline.runs)} runs of {baseline.name}, the baseline, have not ended, and are not in its "
            "final loss and cost."
        )
    if len(_fingerprints(runs)) > 1:
        lines.append(
            "The runs were trained and evaluated on different data (other fingerprints in data.json): their losses are "
            "not comparable."
        )
    if len({(run.recipe.evaluation.windows, run.recipe.data.sequence_length) for run in runs}) > 1:
        lines.append(
            "The runs were evaluated on different numbers or lengths of held-out windows: their losses are not quite "
            "comparable."
        )
    ranks = {len(run.summary["peak_memory"]) for run in runs if run.summary is not None}
    devices = {_device(run.summary["peak"]) for run in runs if run.summary is not None and "peak" in run.summary}
    if len(ranks) > 1 or len(devices) > 1:
        lines.append("The runs were trained on different devices or numbers of ranks: their times are not comparable.")
    ends = [_end(run) for run in runs]
    if len({end for end in ends if end is not None}) > 1:
        lines.append("The runs do not all end with a model of the same family and size.")
    lengths = {steps: None for run in runs if (steps := _target_steps(run)) is not None}
    if len(lengths) > 1 and any(run.recipe.schedule.name in _FALLING for run in runs):
        told = [f"{steps:,}" for steps in lengths]
        lines.append(
            f"Each run's learning rate falls over its own steps ({', '.join(told[:-1])} and {told[-1]}), so amid training "
            "their losses are at different points of their schedules."
        )
    if all(len(method.runs) == 1 for method in methods):
        lines.append("There is one run of each method, so nothing is known of the spread over seeds.")
    return lines


def lead(methods: list[Method], baseline: Method | None) -> list[str]:
    """Return where each method starts, and what it needs for the baseline's loss, as far as both are on record.

    Nothing is said of a method on other data than the baseline's.
    """
    against = None if baseline is None else baseline.reference("flops", with_source=False)
    if against is None or not against.spent:
        return []
    lines = []
    for method in methods:
        start = _start(method)
        own = None if method is baseline else savings(methods, baseline, VIEWS[0])[method.name]
        if start is None or own is None or len(_fingerprints([*method.runs, *baseline.runs])) > 1:
            continue
        begins = _start(baseline)
        told = f"{method.name} starts at a held-out loss of {start:.2f}"
        told += "" if begins is None else f" where {baseline.name} begins at {begins:.2f}"
        goal = f"{baseline.name}'s {'final' if baseline.ended else 'present'} loss, {against.loss:.2f}"
        if own.mean is None:
            told += f", and has not reached {goal}"
        elif len(own.shares) == own.runs:
            reached = [curve.first_reached(against.loss) for curve in method.curves("flops", with_source=False)]
            needed = amount("flops", statistics.fmean(reached))
            told += f", and from the growth on needs {needed} instead of {amount('flops', against.spent)} to reach {goal}"
        lines.append(f"{told}.")
    return lines


def saved(methods: list[Method], baseline: Method | None, reason: str, plots: list[Plot]) -> Part:
    """Return what each method saved, with the figures `plots`, or `reason` where there is no baseline."""
    if baseline is None:
        return Part(lines=[reason])
    against = baseline.reference("flops", with_source=False)
    others = [method for method in methods if method is not baseline]
    if against is None or not against.spent or not others:
        return Part(
            lines=[
                f"{baseline.name} has no held-out loss on record yet, or there is nothing to compare it with, so there "
                "is no saving."
            ]
        )
    lines = [
        f"{baseline.name} {baseline.is_at} a held-out loss of {against.loss:.4f} after {amount('flops', against.spent)}. What "
        "another method saves is "
        "the share of that which it did not need until it first reached the same loss; between two evaluations the "
        "loss is taken to fall "
        "in a straight line. The result depends on the loss that is to be reached, as the figures below show.",
    ]
    if not baseline.ended:
        lines.append(f"{baseline.name} has not ended, so these figures are preliminary.")
    curves = [curve for curve in baseline.settled.curves("flops", with_source=False) if curve.losses and curve.spent[-1]]
    early = statistics.fmean(1 - curve.first_reached(curve.losses[-1]) / curve.spent[-1] for curve in curves)
    if early > _NOTEWORTHY:
        lines.append(
            f"{baseline.name} itself was first at its final loss {100 * early:.1f} % of its compute before it ended, since its "
            "loss did not fall to the end: so much of each saving is no method's doing."
        )
    points = [_saved_sentence(method, baseline, methods) for method in others]
    return Part(lines=lines, points=points, tables=[tables.savings_table(methods, baseline)], plots=plots)


def _fingerprints(runs: list[RecordedRun]) -> set[str]:
    return {run.data["fingerprint"] for run in runs if run.data is not None}


def _listed(keys: list[str]) -> str:
    return ", ".join(keys[:_SEEN]) + (f" and {counted(len(keys) - _SEEN, 'more setting')}" if len(keys) > _SEEN else "")


def _start(method: Method) -> float | None:
    """The mean loss of the untrained or just grown target over a method's runs; None where it is not on record of all."""
    losses = []
    for run in method.runs:
        points = run.evaluations if run.from_scratch else run.target_evaluations
        first = points[0] if points else None
        if first is None or not (first["step"] == 0 if run.from_scratch else first in run.growth_points):
            return None
        losses.append(first["loss"])
    return statistics.fmean(losses)


def _target_steps(run: RecordedRun) -> int | None:
    """How many steps a run's target is trained for, by its recipe; None where a length is not in steps."""
    stages = run.recipe.phases[-1].stages
    # From scratch the source is the target, which may be trained as either.
    lengths = [stage.steps for stage in (stages if not run.from_scratch else [run.recipe.source, *stages])]
    if run.from_scratch and lengths[0] is None:
        lengths = lengths[1:]
    return None if None in lengths else sum(lengths)


def _end(run: RecordedRun) -> tuple[str, int, int] | None:
    """The family, layers and hidden size of the model that a run ends with; None where they are not known yet."""
    if run.planned is not None:
        last = run.planned[-1]
        return run.recipe.source.model.family, last.num_hidden_layers, last.hidden_size
    # Of a model on the way nothing follows for the last one.
    if len(run.certificates) <= len(run.recipe.phases) - 2:
        return None
    last = run.certificates[-1]
    return last["family"], last["target"]["num_hidden_layers"], last["target"]["hidden_size"]


def _saved_sentence(method: Method, baseline: Method, methods: list[Method]) -> str:
    own, whole = (savings(methods, baseline, view)[method.name] for view in VIEWS[:2])
    if own is None or own.mean is None:
        return f"{method.name} has not reached that loss."
    with_source = f"With what its source cost: {tables.percent(whole)}."
    some = len(own.shares) < own.runs
    who = f"{len(own.shares)} of {own.runs} runs of {method.name}" if some else method.name
    if all(share == 1 for share in own.shares):
        return f"{who} {'are' if some else 'is'} there right after growth: {tables.percent(own)} saved. {with_source}"
    against = baseline.reference("flops", with_source=False)
    reached = [curve.first_reached(against.loss) for curve in method.curves("flops", with_source=False)]
    mean, _ = spread([spent for spent in reached if spent is not None])
    told = f"{who} {'reach' if some else 'reaches'} it after {amount('flops', mean)}: {tables.percent(own)} saved"
    if some:
        told += ", a mean that leaves out those that have not, and so is too good"
    return f"{told}. {with_source}"


def _device(peak: str) -> str:
    """What a summary says of the device, without a speed that was measured, which is another each time."""
    _, rest = peak.split(maxsplit=1)
    return rest if "measured" in rest else peak
