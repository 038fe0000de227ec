"""The page: what stands where, and the HTML that it becomes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jinja2
import matplotlib
from markupsafe import Markup

from data_prep.report.html import environment
from data_prep.report.parts import Grid
from pipeline.report import contrast, standing, tables
from pipeline.report.attention.gallery import Absent, attention_section
from pipeline.report.attention.options import AttentionOptions
from pipeline.report.comparison import compared
from pipeline.report.compute import compared_ledgers, ledger_figure
from pipeline.report.curves import loss_curves
from pipeline.report.figures import STYLE, Plot, to_svg
from pipeline.report.growths import ExplainedGrowth, explain
from pipeline.report.methods import Method, baseline_of, group
from pipeline.report.parts import Part, Section
from pipeline.report.recorded import RecordedRun
from pipeline.report.repeat import repeat_section
from pipeline.report.speed import speed_figures

_FOOTER = (
    "Losses are in nats per scored token. FLOPs are matrix products, counted step by step; executed ones include what was "
    "computed again to save memory. This page is made of the run directories' own records alone."
)


@dataclass(frozen=True)
class Page:
    """A finished report."""

    html: str
    plots: list[Plot]


@dataclass(frozen=True)
class Judged:
    """What methods saved by another measure than where their curves first reach the baseline's last loss."""

    overview: Grid
    saved: Part


def build(
    named: Sequence[tuple[str | None, RecordedRun]],
    baseline_name: str | None = None,
    attention: AttentionOptions | None = None,
    judged: Judged | None = None,
) -> Page:
    """Return the report of one run or of several; the same runs give the same bytes.

    `attention` says what of a single run's attention is shown; `judged` stands in place of what is else said of savings.
    Raises UserError where a run is given twice, or where `baseline_name` is none of the methods.
    """
    methods = group(named)
    baseline, reason = baseline_of(methods, baseline_name)
    with matplotlib.rc_context(STYLE):
        if len(named) == 1:
            content, sections = _one(methods[0], attention or AttentionOptions())
        else:
            content, sections = _several(methods, baseline, reason, judged)
        return rendered(content, sections, _FOOTER)


def rendered(content: dict[str, object], sections: Sequence[Section], footer: str) -> Page:
    """Return the page of sections under a head (`kind`, `title`, `lead`, `tiles`, `overview`, `warnings`)."""
    with matplotlib.rc_context(STYLE):
        html = _environment().get_template("page.html").render(**content, sections=sections, footer=footer)
    return Page(html, [plot for section in sections for plot in section.plots])


def _environment() -> jinja2.Environment:
    templates = environment("pipeline.report")
    templates.filters["svg"] = lambda plot: Markup(to_svg(plot))
    return templates


def _one(method: Method, attention: AttentionOptions) -> tuple[dict[str, object], list[Section]]:
    run = method.runs[0]
    content = {
        "kind": f"Report of the run {run.path}",
        "title": f"{method.name}: {standing.grown(run)}",
        "lead": [standing.state(run), *standing.told(run)],
        "tiles": standing.tiles(run),
        "overview": None,
        "warnings": standing.warnings(run),
    }
    return content, [
        Section("loss", "Loss", [_or_absent(loss_curves(run), "No step is on record, so there is no curve yet.")]),
        Section(
            "saved",
            "Compute saved",
            [Part(lines=["A saving takes a comparison: name a run that was trained from scratch beside this one."])],
        ),
        _compute([method], None),
        Section("growth", "Growth", _growth_parts(method, "growth")),
        _attention(run, attention),
        _evaluation([method]),
        repeat_section([method]),
    ]


def _several(
    methods: list[Method], baseline: Method | None, reason: str, judged: Judged | None
) -> tuple[dict[str, object], list[Section]]:
    runs = [run for method in methods for run in method.runs]
    content = {
        "kind": f"Report of {len(runs)} runs of {len(methods)} methods"
        if len(methods) > 1
        else f"Report of {len(runs)} runs of one method",
        "title": " / ".join(method.name for method in methods),
        "lead": [
            *(contrast.lead(methods, baseline) if judged is None else ()),
            *(f"{method.name}: {standing.grown(method.grown_run)}." for method in methods),
        ],
        "tiles": [],
        "overview": tables.overview_table(methods, baseline) if judged is None else judged.overview,
        "warnings": [
            *contrast.incomparable(methods, baseline),
            *(
                f"{_run_name(method, run)}: {line}"
                for method in methods
                for run in method.runs
                for line in standing.warnings(run)
            ),
        ],
    }
    plots = compared(methods, baseline)
    loss = [plot for plot in plots if plot.name.startswith("compare")]
    saved = (
        contrast.saved(methods, baseline, reason, [plot for plot in plots if plot not in loss])
        if judged is None
        else judged.saved
    )
    sections = [
        Section("loss", "Held-out loss", [_or_absent(loss, "No run has a held-out loss on record yet, so there is no curve.")]),
        Section("saved", "Compute saved", [saved]),
        _compute(methods, baseline),
        Section(
            "growth",
            "Growth",
            [part for number, method in enumerate(methods) for part in _growth_parts(method, f"growth-{number}", named=True)],
        ),
        Section("attention", "Attention", [Part(lines=["Attention is shown in the report of a single run."])]),
        _evaluation(methods),
        repeat_section(methods),
    ]
    return content, sections


def _or_absent(plots: list[Plot], reason: str) -> Part:
    return Part(plots=plots) if plots else Part(lines=[reason])


def _run_name(method: Method, run: RecordedRun) -> str:
    return method.name if len(method.runs) == 1 else f"{method.name} ({run.path})"


def _compute(methods: list[Method], baseline: Method | None) -> Section:
    runs = [(_run_name(method, run), run) for method in methods for run in method.runs if run.steps]
    if not runs:
        return Section("compute", "Where the compute went", [Part(lines=["No step is on record, so nothing has been spent."])])
    one = len(runs) == 1
    figure = ledger_figure(runs[0][1]) if one else compared_ledgers(methods)
    plots = [*([figure] if figure else []), *speed_figures(methods, baseline)]
    grids = tables.ledger_tables(runs)
    lines = []
    if one and runs[0][1].summary is not None and "peak" in runs[0][1].summary:
        lines.append(f"MFU is model FLOPs against {runs[0][1].summary['peak']}.")
    if any(run.ledger is None or run.ledger_step != run.last_step for _, run in runs):
        lines.append("FLOPs by part appear after the next checkpoint.")
    lines += [
        f"What the source of {name}, {run.recipe.source.path}, cost is {cost}."
        for name, run in runs
        if (cost := standing.source_cost(run)) is not None
    ]
    memory = tables.memory_table(runs)
    absent = [] if memory else ["Peak memory is on record once a run has ended."]
    return Section(
        "compute",
        "Where the compute went",
        [Part(lines=[*lines, *absent], plots=plots), Part(tables=[*grids, *([memory] if memory else [])])],
    )


def _growth_parts(method: Method, prefix: str, *, named: bool = False) -> list[Part]:
    run = method.grown_run
    if run.from_scratch:
        return [
            Part(
                heading=method.name if named else "",
                lines=["Nothing is grown: the model is trained from scratch at the target's own sizes."],
            )
        ]
    grown = explain(run, prefix)
    if not grown:
        return [Part(heading=method.name if named else "", lines=["There is no certificate yet: nothing has been grown."])]
    parts = [part for one in grown for part in _growth(one, f"{method.name}, " if named else "")]
    if len(method.runs) > 1:
        parts[0] = replace(
            parts[0],
            lines=[f"This is the growth of {run.path}, the first that grows of {len(method.runs)} runs.", *parts[0].lines],
        )
    return parts


def _growth(one: ExplainedGrowth, name: str) -> list[Part]:
    before = Grid("Sizes", ["", "source", "grown", ""], one.sizes)
    measured = Grid(
        "The grown model beside its source",
        ["compared", "precision", "source's loss", "grown model's loss", "difference", "largest change of a logit"],
        [[row[key] for key in ("where", "precision", "source", "grown", "gap", "logit")] for row in one.measured],
        frozenset({1}),
    )
    causes = [f"“{cause}”. {meaning}" if meaning else f"“{cause}”." for cause, meaning in one.departures]
    return [
        Part(
            heading=f"{name}{one.heading}",
            lines=[f"Verdict: {one.verdict}."],
            points=[*causes, *one.meaning, one.moments],
            terms=one.operators,
        ),
        Part(points=[*(f"Not named, and chosen: {choice}." for choice in one.choices), *one.maps], tables=[measured]),
        Part(tables=[before], plots=[one.layers], beside=True),
        Part(lines=[f"Source: {one.source}."]),
    ]


def _attention(run: RecordedRun, options: AttentionOptions) -> Section:
    found = attention_section(run.path, options)
    if isinstance(found, Absent):
        return Section("attention", "Attention", [Part(lines=[f"There are no attention maps: {found.reason}."])])
    return Section("attention", "Attention", [Part(lines=found.sentences, plots=found.plots)])


def _evaluation(methods: list[Method]) -> Section:
    scores = [(_run_name(method, run), score) for method in methods for run in method.runs for score in run.scores]
    if not scores:
        return Section(
            "evaluation",
            "Evaluation",
            [Part(lines=["No task has been evaluated: launch/evaluate.py --model RUN --task NAME records scores in a run."])],
        )
    return Section("evaluation", "Evaluation", [Part(tables=tables.score_tables(scores))])
