"""How one run stands, in sentences and main figures: what it grows, how far it has come, what went wrong."""

import math
from collections.abc import Sequence

from data_prep.report.numbers import counted
from data_prep.report.parts import Tile
from pipeline.evaluation.perplexity import perplexity
from pipeline.flops.counts import StepFlops
from pipeline.flops.ledger import Line
from pipeline.growth.reasons import duplicates_warning
from pipeline.report.figures import amount
from pipeline.report.growths import size
from pipeline.report.recorded import RecordedRun
from pipeline.runs.records import duplicates_of
from pipeline.runs.steps import missing_words

_SEEN = 12
"""Step numbers that are listed before the rest is only counted."""


def grown(run: RecordedRun) -> str:
    """What was grown into what, by the certificates, else by the recipe."""
    if run.certificates and not run.from_scratch:
        first = run.certificates[0]
        return f"{first['family']}, {' → '.join([size(first['source']), *(size(one['target']) for one in run.certificates)])}"
    if run.planned is None:
        return f"to be grown from {run.recipe.source.path}"
    family, sizes = (
        run.recipe.source.model.family,
        [f"{counted(one.num_hidden_layers, 'layer')} × {one.hidden_size}" for one in run.planned],
    )
    return f"{family}, {sizes[-1]}, from scratch" if run.from_scratch else f"{family}, {' → '.join(sizes)}"


def state(run: RecordedRun) -> str:
    """Return how far a run has come."""
    if run.ended:
        return f"The run has ended, after {counted(run.last_step, 'step')}."
    planned = None if run.data is None or "steps" not in run.data else sum(run.data["steps"].values())
    of = "" if planned is None else f" of {planned:,}"
    if not run.steps:
        return "No step is on record: the run has not begun to train."
    return (
        f"The run has not ended: it stands at step {run.last_step:,}{of} (stage {run.steps[-1]['stage']}), as of the "
        "last record, and is still going or was stopped."
    )


def told(run: RecordedRun) -> list[str]:
    """Return what each growth came to."""
    if run.from_scratch:
        return ["Nothing is grown in this run: the model is trained from scratch at the target's own sizes."]
    lines = []
    for number, certificate in enumerate(run.certificates, 1):
        which = f"Growth {number}" if len(run.certificates) > 1 else "The growth"
        growth, seen = certificate["growth"], certificate["in_training"] or certificate["measured"]
        # What is measured apart from training is so on random tokens.
        text = "the held-out loss" if certificate["in_training"] else "the loss on random tokens"
        moved = f"moved by {seen['loss_gap']:+.4f}" if round(seen["loss_gap"], 4) else "did not move"
        lines.append(
            f"{which} ({growth['width']} in width, {growth['depth']} in depth) is {certificate['verdict']}; {text} {moved}."
        )
    return lines or ["Nothing has been grown yet."]


def tiles(run: RecordedRun) -> list[Tile]:
    """Return the main figures of a run; none where no step is on record."""
    if not run.steps:
        return []
    spent = run.spent(run.last_step)
    found = []
    if run.final_loss is not None:
        # A loss that is lost altogether has a perplexity beyond all numbers.
        whole = perplexity(run.final_loss)
        note = f"perplexity {whole:,.1f}" if math.isfinite(whole) else ""
        found.append(Tile("Held-out loss", f"{run.final_loss:.4f}", note))
    elif run.evaluations:
        found.append(
            Tile("Held-out loss so far", f"{run.evaluations[-1]['loss']:.4f}", f"of the stage {run.evaluations[-1]['stage']}")
        )
    source = run.source_spent["flops"]
    found.append(
        Tile(
            "Executed compute",
            amount("flops", spent["flops"]),
            f"{amount('flops', source)} of it on the source" if source else "",
        )
    )
    found.append(Tile("Tokens", amount("tokens", spent["tokens"]), f"{run.last_step:,} steps"))
    speed = f"{spent['tokens'] / spent['seconds']:,.0f} tokens/s" if spent["seconds"] else ""
    found.append(Tile("Time in steps", amount("seconds", spent["seconds"]), speed))
    if run.certificates and not run.from_scratch:
        verdicts = list(dict.fromkeys(certificate["verdict"] for certificate in run.certificates))
        found.append(Tile("Growth", ", ".join(verdicts)))
    return found


def warnings(run: RecordedRun) -> list[str]:
    """Return what went wrong in a run, or is not known of it."""
    lines = []
    if run.skipped:
        lines.append(f"{len(run.skipped)} step(s) were skipped, or had a loss that is no number: {_listed(run.skipped)}.")
    if run.missing:
        lines.append(
            f"metrics.jsonl lacks the steps {missing_words(run.missing)}: curves, costs by stage and times leave them out."
        )
    if run.unscored:
        lines.append(
            f"The held-out loss was no number at step {_listed(run.unscored)}: curves and final losses are those of the "
            "evaluations that gave one."
        )
    if run.rewinds:
        lines.append(f"The run went back to a checkpoint {run.rewinds} time(s) of its own accord.")
    if run.lost:
        lines.append(
            f"{len(run.lost):,} step(s) were taken and lost, to a crash or a rewind: {amount('flops', run.wasted)} of waste."
        )
    for number, certificate in enumerate(run.certificates, 1):
        if not certificate["measured_agrees"]:
            lines.append(f"Growth {number} should have preserved the function and was seen not to.")
        lines += [f"{line}." for line in duplicates_warning(duplicates_of(certificate))]
    cost = source_cost(run) if run.steps else None
    if cost is not None:
        lines.append(f"What the pre-training of {run.recipe.source.path} cost is {cost}.")
    return lines


def source_cost(run: RecordedRun) -> str | None:
    """Return what is known of what a given source cost, and why not all is; None where all is, and where none was given."""
    if run.inherited_flops is not None:
        return None
    if run.ledger is None:
        return "on record from the run's first checkpoint on"
    # Older versions booked nothing where nothing was known.
    line = run.ledger.sources if run.ledger.inherited else Line(StepFlops(), 0, complete=False)
    return f"{line.told(amount('flops', line.spent))}: {line.missing}"


def _listed(steps: Sequence[int]) -> str:
    return ", ".join(str(step) for step in steps[:_SEEN]) + (", …" if len(steps) > _SEEN else "")
