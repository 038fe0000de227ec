"""The plan as text, as a page and as rows: what is best, what it saves, how sure that is."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np

from data_prep.report.parts import Grid, Section
from pipeline.planning.compared_runs import ComparedRun, comparison_table
from pipeline.planning.predictions import Predictor, Row
from pipeline.planning.schedules import Schedule
from pipeline.report import prose
from pipeline.report.figures import BASELINE, LOOKS, STYLE, Plot, amount, blank, legend_above, unit
from pipeline.report.page import rendered
from pipeline.report.prose import table, whole_percent

_SHOWN = 10
"""Schedules of the table."""
_BETTER = 0.02
"""By so much of scratch's compute at least a smaller size is called better than the target."""


@dataclass(frozen=True)
class Answer:
    """The planner's whole answer to a question."""

    predictor: Predictor
    grown: Sequence[Row]
    """The best first."""
    fixed: Sequence[Row]
    rules: Sequence[Row]
    asked: Sequence[Row]
    """Schedules of recipes that were named."""
    compared: Sequence[ComparedRun]
    runs: int
    """Of the record, and pilots."""
    pilot_flops: int
    """What pilots have cost."""
    rates: Mapping[float, int]
    """The peak learning rates with which the setting's configurations ended lowest, and how many did so with each."""
    rate: float
    """The recipe's own."""

    @property
    def best(self) -> Row | None:
        """The schedule of which most is sure to be saved."""
        return self.grown[0] if self.grown else None


def to_markdown(answer: Answer) -> str:
    """Return the plan as a page of text."""
    lines = [f"# Plan: {title(answer)}", ""]
    lines += [f"**{line}**\n" for line in warnings(answer)]
    lines += [f"{line}\n" for line in lead(answer)]
    for grid in grids(answer):
        lines += in_markdown(grid)
    return "\n".join(lines).rstrip() + "\n"


def to_html(answer: Answer) -> str:
    """Return the plan as one page that opens from disk."""
    head = {"kind": "Plan of a run", "title": title(answer), "lead": lead(answer), "warnings": warnings(answer)}
    sections = [
        Section("figure", "Loss and compute", {"plots": [figure(answer)]}, "plain"),
        *(Section(f"table-{number}", grid.title, {"tables": [grid]}, "plain") for number, grid in enumerate(grids(answer))),
    ]
    footer = (
        "Losses are in nats per scored token. FLOPs are matrix products, executed ones, counted as the ledger of a run does."
    )
    return rendered(head, sections, footer).html


def to_rows(answer: Answer) -> list[dict[str, Any]]:
    """Return every schedule with what is predicted of it, to be held against what comes out."""
    groups = {"grown": answer.grown, "fixed": answer.fixed, "rule": answer.rules, "asked": answer.asked}
    return [
        {
            "group": group,
            "setting": answer.predictor.question.setting,
            "name": row.label or row.schedule.name,
            "sizes": [size.sizes for size in row.schedule.sizes],
            "steps": list(row.schedule.steps),
            "tokens": [round(phase.tokens) for phase in row.schedule.training(answer.predictor.question).phases],
            "growths": [kind.section for kind in row.schedule.kinds],
            "loss": row.loss,
            "flops": row.schedule.whole_flops,
            "saved": row.saved_counted,
            "interval": list(row.interval_counted),
            "claim": row.claim,
            "beyond": list(row.beyond),
        }
        for group, rows in groups.items()
        for row in rows
    ]


def ground(answer: Answer) -> dict[str, Any]:
    """Return what predictions rest on: how many runs, a digest of them, and the law that was fitted."""
    law, runs = answer.predictor.law, repr(sorted(map(repr, answer.predictor.trainings)))
    digest = hashlib.blake2b(runs.encode(), digest_size=8).hexdigest()
    return {"runs": answer.runs, "runs_digest": digest, "noise": law.noise, "parameters": dict(law.fitted)}


def title(answer: Answer) -> str:
    """The target and its tokens."""
    question = answer.predictor.question
    return f"{question.target.config.model_type} {question.target.name}, {amount('tokens', question.tokens)} tokens"


def warnings(answer: Answer) -> list[str]:
    """Say what a person must know first: that another size than the target would be better, and that nothing was found."""
    question = answer.predictor.question
    cheaper = [row for row in answer.fixed if row.schedule.flops < (1 - _BETTER) * question.scratch_flops]
    return prose.paragraphs(_TEMPLATES, "plan.txt", "warnings", question, answer.best, cheaper)


def lead(answer: Answer) -> list[str]:
    """Say what is asked, what is best and what it rests on."""
    question, predictor = answer.predictor.question, answer.predictor
    own = sum(one.setting == question.setting for one in predictor.trainings)
    return prose.paragraphs(_TEMPLATES, "plan.txt", "lead", answer, question, predictor, own)


def grids(answer: Answer) -> list[Grid]:
    """The tables: schedules, rules of thumb, fixed sizes, recipes that were asked about, and how far the law was off."""
    tables = {
        "Recipes that were named": answer.asked,
        "Rules of thumb": answer.rules,
        "Smaller sizes alone, to the same loss": answer.fixed,
    }
    found = [_schedules(answer, "Schedules, by the lower end of what they save", answer.grown[:_SHOWN])]
    found += [_schedules(answer, title, rows) for title, rows in tables.items() if rows]
    if answer.compared:
        note = "Each is predicted by a fit without any run of its configuration."
        found.append(comparison_table("How far the law is from runs that it has not seen", answer.compared, note))
    return found


def _schedules(answer: Answer, title: str, rows: Sequence[Row]) -> Grid:
    question, claims = answer.predictor.question, any(row.claim is not None for row in rows)
    head = ["sizes (steps)", "growth", "predicted loss", "compute", "of scratch's", "saved", "90 % interval"]
    given = question.given is not None
    head += ["saved, source counted"] * given + ["saved, by the rule itself"] * claims
    beyond = list(dict.fromkeys(each for row in rows for each in row.beyond))
    cells = []
    for row in rows:
        marks = "".join(f" [{beyond.index(each) + 1}]" for each in row.beyond)
        cells.append(
            [
                (f"{row.label}: " if row.label else "") + row.schedule.name + marks,
                _growths(row.schedule) or "none",
                f"{row.loss:.4f}",
                amount("flops", row.schedule.flops),
                f"{row.schedule.flops / question.scratch_flops:.0%}",
                whole_percent(row.saved),
                _span(row.interval),
                *([whole_percent(row.saved_counted)] if given else []),
                *([whole_percent(row.claim)] if claims else []),
            ]
        )
    notes = [f"[{number}] beyond the runs: {each}." for number, each in enumerate(beyond, 1)]
    if claims or any(abs(row.loss - answer.predictor.goal) > 1e-3 for row in rows):
        notes.insert(
            0,
            "Saved is against what the target from scratch takes to the row's own predicted loss, which may be far "
            "from the target's.",
        )
    return Grid(title, head, cells, frozenset({1}), notes)


def figure(answer: Answer) -> Plot:
    """Predicted loss against compute: the target and smaller sizes alone, and the schedules."""
    question, law = answer.predictor.question, answer.predictor.law
    name, scale = unit("flops", question.scratch_flops)
    rows: list[dict[str, Any]] = []
    with matplotlib.rc_context(STYLE):
        drawn, axes = blank((6.2, 4.2))

        def draw(label: str, costs: Sequence[float], losses: Sequence[float], **how: Any) -> None:
            axes.plot([cost / scale for cost in costs], losses, label=label, **how)
            rows.extend({"what": label, "flops": cost, "loss": loss} for cost, loss in zip(costs, losses, strict=True))

        costs = [share * question.scratch_flops for share in np.geomspace(0.1, 1.2, 24).tolist()]
        sizes = sorted(question.smaller, key=lambda size: size.step_flops)
        for number, size in enumerate([*sizes, question.target]):
            target = size is question.target
            tokens = [cost / size.step_flops * question.step_tokens for cost in costs]
            losses = [law.fixed(question.setting, size.parameters, each) for each in tokens]
            look = BASELINE if target else LOOKS[number % len(LOOKS)]
            draw(f"{size.name} alone" + ", the target" * target, costs, losses, color=look.color, linestyle=look.dash)
        axes.axhline(answer.predictor.goal, color="#999999", linewidth=0.8)
        points = [(answer.grown[:_SHOWN], "*", "grown"), (answer.rules, "s", "rule of thumb"), (answer.asked, "D", "named")]
        for rows_of, marker, label in points:
            if rows_of:
                flops, losses = [row.schedule.flops for row in rows_of], [row.loss for row in rows_of]
                draw(label, flops, losses, linestyle="", marker=marker, color="black", markersize=6)
        axes.set_xlabel(f"executed compute ({name})")
        axes.set_ylabel("predicted held-out loss")
        legend_above(drawn, axes)
    caption = "Lines: models of one size; their lower edge is the frontier. Level: the target's loss from scratch."
    return Plot("plan", "Predicted loss against compute", caption, drawn, rows)


def in_markdown(grid: Grid) -> list[str]:
    """Return a table with its title and notes as lines of text."""
    lines = table(grid.head, [list(map(str, row)) for row in grid.rows], {0, *grid.words})
    return [f"## {grid.title}", "", *lines, "", *(f"{note}\n" for note in grid.notes)]


def _span(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:.0f} to {100 * interval[1]:.0f} %".replace("-", "−")


def _growths(schedule: Schedule) -> str:
    return ", then ".join(dict.fromkeys(kind.name for kind in schedule.kinds))


def _rates(configurations: Mapping[float, int]) -> str:
    return ", ".join(f"{rate:g} ({count} configurations)" for rate, count in sorted(configurations.items()))


_TEMPLATES = prose.templates("pipeline.planning", saved=whole_percent, span=_span, growths=_growths, rates=_rates)
