"""The page: its sections, and the HTML that they become."""

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup

from data_prep.report.numbers import counted
from data_prep.report.parts import Grid, Section, Tile, table
from pipeline.evaluation.rows import perplexity
from pipeline.growth.duplicates import duplicates_warning
from pipeline.report import comparison, compute, prose
from pipeline.report.attention.gallery import attention_section
from pipeline.report.attention.options import AttentionOptions
from pipeline.report.comparison_figures import compared_curves, saved_by_loss
from pipeline.report.figures import STYLE, Plot, amount, to_svg
from pipeline.report.growths import explain, size
from pipeline.report.methods import Method, baseline_of, differing_settings, group
from pipeline.report.recorded import RecordedRun
from pipeline.report.run_figures import loss_curves, step_figures
from pipeline.report.scores import score_tables
from pipeline.runs.records import duplicates_of

_FOOTER = (
    "Losses are in nats per scored token. FLOPs are matrix products, counted step by step; executed ones include what was "
    "computed again to save memory. This page is made of the run directories' own records alone."
)


_EMPTY: dict[str, Any] = {"tiles": [], "overview": None}


@dataclass(frozen=True)
class Page:
    """A finished report."""

    html: str
    plots: list[Plot]


@dataclass(frozen=True)
class Savings:
    """What methods saved, by one measure."""

    overview: Grid
    content: dict[str, Any]
    """Lines, tables and plots of the section on savings."""
    lead: Sequence[str] = ()


def build(
    named: Sequence[tuple[str | None, RecordedRun]],
    baseline_name: str | None = None,
    attention: AttentionOptions | None = None,
    savings: Savings | None = None,
) -> Page:
    """Return the report of one run or of several; the same runs give the same bytes.

    `attention` says what of a single run's attention is shown; `savings` replaces those by where the methods' curves first
    reach the baseline's last loss. Raises UserError where a run is given twice, or where no method is called `baseline_name`.
    """
    methods = group(named)
    baseline, reason = baseline_of(methods, baseline_name)
    with matplotlib.rc_context(STYLE):
        if len(named) == 1:
            run = named[0][1]
            head, title, curves = _head_of_one(methods[0].name, run), "Loss", loss_curves(run)
            saved = {"lines": ["A saving needs a comparison: also name a run that was trained from scratch."]}
            maps = attention_section(run.path, attention or AttentionOptions())
        else:
            if savings is None:
                saved = comparison.saved(methods, baseline, reason) | {"plots": saved_by_loss(methods, baseline)}
                lead = comparison.starts(methods, baseline)
                savings = Savings(comparison.overview(methods, baseline), saved, lead)
            head, title, curves = (
                _head_of_several(methods, baseline, savings),
                "Held-out loss",
                compared_curves(methods, baseline),
            )
            saved, maps = savings.content, {"several": True}
        sections = [
            Section("loss", title, {"plots": curves, "one": len(named) == 1}),
            Section("saved", "Compute saved", saved, "plain"),
            _compute(methods, baseline),
            _growth(methods),
            Section("attention", "Attention", maps),
            *_last_sections(methods),
        ]
        return rendered(head, sections, _FOOTER)


def rendered(head: dict[str, Any], sections: Sequence[Section], footer: str) -> Page:
    """Return the page of sections under a head: `kind`, `title`, `lead`, `warnings`, and maybe `tiles`, an `overview`."""
    drawn: list[Plot] = []

    def svg(plot: Plot) -> Markup:
        drawn.append(plot)
        return Markup(to_svg(plot))

    templates = prose.templates()
    templates.filters["svg"] = svg
    with matplotlib.rc_context(STYLE):
        html = templates.get_template("layout.html").render(_EMPTY | head, sections=sections, footer=footer)
    return Page(html, drawn)


def _head_of_one(name: str, run: RecordedRun) -> dict[str, Any]:
    return {
        "kind": f"Report of the run {run.path}",
        "title": f"{name}: {models(run)}",
        "lead": [*prose.lines("run", "state", run), *prose.lines("run", "growths", run)],
        "tiles": tiles(run),
        "warnings": warnings(run),
    }


def _head_of_several(methods: Sequence[Method], baseline: Method | None, savings: Savings) -> dict[str, Any]:
    runs = _named_runs(methods)
    of = f"{len(methods)} methods" if len(methods) > 1 else "one method"
    of_runs = [f"{name}: {line}" for name, run in runs for line in warnings(run)]
    return {
        "kind": f"Report of {len(runs)} runs of {of}",
        "title": " / ".join(method.name for method in methods),
        "lead": [*savings.lead, *(f"{method.name}: {models(method.grown_run)}." for method in methods)],
        "overview": savings.overview,
        "warnings": [*comparison.limits(methods, baseline), *of_runs],
    }


def _named_runs(methods: Sequence[Method]) -> list[tuple[str, RecordedRun]]:
    """All runs, and what the page calls them."""
    return [(_name(method, run), run) for method in methods for run in method.runs]


def _name(method: Method, run: RecordedRun) -> str:
    return method.name if len(method.runs) == 1 else f"{method.name} ({run.path})"


def _compute(methods: Sequence[Method], baseline: Method | None) -> Section:
    runs = [(name, run) for name, run in _named_runs(methods) if run.steps]
    content: dict[str, Any] = {"runs": [(name, run, source_cost(run)) for name, run in runs]}
    if runs:
        only = runs[0][1] if len(runs) == 1 else None
        figures = compute.compared_ledgers(methods) if only is None else compute.ledger_figure(only)
        content |= {
            "peak": only.summary.get("peak") if only is not None and only.summary is not None else None,
            "parts_later": any(run.ledger is None or run.ledger_step != run.last_step for _, run in runs),
            "plots": [*figures, *step_figures(methods, baseline)],
            "tables": compute.ledger_tables(runs),
            "memory": compute.memory_tables(runs),
        }
    return Section("compute", "Where the compute went", content)


def _growth(methods: Sequence[Method]) -> Section:
    several = len(methods) > 1 or len(methods[0].runs) > 1
    explained = [
        (
            method,
            [] if method.grown_run.from_scratch else explain(method.grown_run, f"growth-{number}" if several else "growth"),
        )
        for number, method in enumerate(methods)
    ]
    return Section("growth", "Growth", {"methods": explained})


def _last_sections(methods: Sequence[Method]) -> list[Section]:
    """What tasks made of the models, the settings, and how each run is repeated."""
    runs = _named_runs(methods)
    settings = differing_settings(methods)
    first = [("" if len(methods) == 1 else f", {_name(method, method.runs[0])}", method.runs[0]) for method in methods]
    content = {
        "tables": [table("Settings that differ", settings, [method.name for method in methods])] if settings else [],
        "ranks": sorted({len(run.summary["peak_memory"]) for _, run in runs if run.summary is not None}),
        "versions": sorted({run.transformers for _, run in runs if run.transformers}),
        "commands": [
            f"deepspeed launch/pretrain.py --ds_config {path}/ds_config.json --recipe {path}/recipe.yaml run_dir={path}-again"
            for path in (shlex.quote(str(run.path)) for _, run in runs)
        ],
        "runs": [
            (of, run.recipe.to_yaml(), "" if run.ds_config is None else json.dumps(run.ds_config, indent=2))
            for of, run in first
        ],
    }
    scores = [(name, score) for name, run in runs for score in run.scores]
    return [
        Section("evaluation", "Evaluation", {"tables": score_tables(scores)}, "scores"),
        Section("repeat", "Settings, and how to repeat", content),
    ]


def models(run: RecordedRun) -> str:
    """Return what was grown into what, by the certificates, else by the recipe."""
    if run.certificates and not run.from_scratch:
        first = run.certificates[0]
        return f"{first['family']}, {' → '.join([size(first['source']), *(size(one['target']) for one in run.certificates)])}"
    if run.recipe.source.model is None or run.planned is None:
        return f"to be grown from {run.recipe.source.path}"
    family = run.recipe.source.model.family
    sizes = [f"{counted(one.num_hidden_layers, 'layer')} × {one.hidden_size}" for one in run.planned]
    return f"{family}, {sizes[-1]}, from scratch" if run.from_scratch else f"{family}, {' → '.join(sizes)}"


def tiles(run: RecordedRun) -> list[Tile]:
    """Return the main figures of a run; none where no step is on record."""
    if not run.steps:
        return []
    spent, source = run.spent(run.last_step), run.source_spent["flops"]
    found = []
    if run.final_loss is not None:
        # A loss that is lost altogether has a perplexity beyond all numbers.
        whole = perplexity(run.final_loss)
        found.append(Tile("Held-out loss", f"{run.final_loss:.4f}", f"perplexity {whole:,.1f}" if math.isfinite(whole) else ""))
    elif run.evaluations:
        last = run.evaluations[-1]
        found.append(Tile("Held-out loss so far", f"{last.loss:.4f}", f"of the stage {last.stage}"))
    on_source = f"{amount('flops', source)} of it on the source" if source else ""
    speed = f"{spent['tokens'] / spent['seconds']:,.0f} tokens/s" if spent["seconds"] else ""
    found += [
        Tile("Executed compute", amount("flops", spent["flops"]), on_source),
        Tile("Tokens", amount("tokens", spent["tokens"]), f"{run.last_step:,} steps"),
        Tile("Time in steps", amount("seconds", spent["seconds"]), speed),
    ]
    if run.certificates and not run.from_scratch:
        found.append(Tile("Growth", ", ".join(dict.fromkeys(certificate["verdict"] for certificate in run.certificates))))
    return found


def source_cost(run: RecordedRun) -> str:
    """Return what is known of what a given source cost, and why not all is; nothing where all is, or none was given."""
    return prose.text("run", "source_cost", run)


def warnings(run: RecordedRun) -> list[str]:
    """Return what went wrong in a run, or is not known of it."""
    duplicates = [duplicates_warning(duplicates_of(certificate)) for certificate in run.certificates]
    return prose.lines("run", "warnings", run, source_cost(run), duplicates)
