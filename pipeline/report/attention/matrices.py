"""Figures of how alike heads and layers are: matrices, and duplicates on a line."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from pipeline.report import prose
from pipeline.report.attention.canvas import COLOURS, LETTERS, TEXT, TICK, WIDTH, Canvas, letters_in_words
from pipeline.report.attention.compared import GROWN, SOURCE, TRAINED, ComparedHeads
from pipeline.report.attention.similarity import head_similarity, layer_similarity
from pipeline.report.figures import Plot, blank, legend_above


@dataclass(frozen=True, slots=True)
class _Row:
    """Matrices beside each other in a figure."""

    title: str
    panels: list[np.ndarray]
    along: list[list[str]]
    """The names of each panel's columns."""
    circled: Sequence[tuple[int, int]] = ()
    """(row, column) of what is marked in each."""


def source_and_target(compared: ComparedHeads) -> list[Plot]:
    """Return source heads against target heads, layer by layer; none where the layers come from no source layer."""
    drawn, rows, kinds = [], [], []
    for layer in compared.layers:
        source, origins = compared.plan.layers[layer].source, compared.origins[layer]
        if source is None:
            continue
        kinds += [origin.kind for origin in origins]
        panels = {
            when: head_similarity(compared.maps.source[source], maps[layer], causal=compared.causal)
            for when, maps in compared.maps.targets.items()
        }
        circled = [(one.head, head) for head, one in enumerate(origins) if one.layer == source and one.head is not None]
        names = [f"{head}{LETTERS[origin.kind]}" for head, origin in enumerate(origins)]
        drawn.append(_Row(compared.layer_name(layer), list(panels.values()), [names] * len(panels), circled))
        rows += [
            {"model": when, "source_layer": source, "source_head": i, "layer": layer, "head": j}
            | {"kind": origins[j].kind, "similarity": similarity}
            for when, i, j, similarity in _elements(panels)
        ]
    title, caption = "Heads of the source and of the target", prose.text("attention", "source_target", letters_in_words(kinds))
    axes = (list(compared.maps.targets), "source head", "target head")
    return [Plot("attention-source-target", title, caption, _matrices(drawn, *axes), rows)] if drawn else []


def within_layers(compared: ComparedHeads) -> list[Plot]:
    """Return heads of a layer against each other, in the source and in the target; none for added layers alone."""
    when = list(compared.within)[-1]
    drawn, rows = [], []
    for layer in compared.layers:
        origin = compared.plan.layers[layer]
        if origin.added:
            continue
        heads = compared.maps.source[origin.source]
        own = head_similarity(heads, heads, causal=compared.causal)
        panels = {SOURCE: own, f"target, {when}": compared.within[when][layer]}
        names = [[str(head) for head in range(len(alike))] for alike in panels.values()]
        drawn.append(_Row(compared.layer_name(layer), list(panels.values()), names))
        rows += [
            {"model": model, "layer": layer, "head": i, "other_head": j, "similarity": similarity}
            for model, i, j, similarity in _elements(panels)
        ]
    title, caption = "Heads of one layer beside each other", prose.text("attention", "within_layers")
    axes = ([SOURCE, f"target, {when}"], "head", "head")
    return [Plot("attention-within-layers", title, caption, _matrices(drawn, *axes), rows)] if drawn else []


def layers_plot(compared: ComparedHeads) -> Plot:
    """Return source layers against target layers."""
    panels = {
        when: layer_similarity(compared.maps.source, maps, causal=compared.causal)
        for when, maps in compared.maps.targets.items()
    }
    circled = [(origin.source, layer) for layer, origin in enumerate(compared.plan.layers) if origin.source is not None]
    drawn = _Row("", list(panels.values()), [compared.layer_numbers] * len(panels), circled)
    rows: list[dict[str, Any]] = [
        {"model": when, "source_layer": i, "layer": j, "similarity": similarity} for when, i, j, similarity in _elements(panels)
    ]
    title, caption = "Layers of the source and of the target", prose.text("attention", "layers")
    return Plot("attention-layers", title, caption, _matrices([drawn], list(panels), "source layer", "target layer"), rows)


def duplicates_plot(compared: ComparedHeads) -> list[Plot]:
    """Return each new head beside the source's own head of its layer; none where no head has one."""
    duplicates = compared.duplicates()
    if not duplicates:
        return []
    figure, axes = blank((WIDTH, 2.8))
    drawn = {GROWN: (-0.12, "o", "none"), TRAINED: (0.12, "^", "0.25")}
    for label in compared.maps.targets:
        shift, marker, fill = drawn[label]
        values = np.array([one.grown if label == GROWN else one.trained for one in duplicates], dtype=float)
        places = [one.layer + shift for one in duplicates]
        axes.plot(places, values, marker, ms=4, mec="black", mfc=fill, mew=0.8, label=label, clip_on=False, zorder=3)
    if not np.isnan(compared.unrelated()):
        axes.axhline(compared.unrelated(), color="0.4", lw=0.8, ls="--", label="heads made from different ones")
    _number(axes.set_xticks, compared.layer_numbers, WIDTH - 0.8)
    axes.set_xlabel("target layer (+ added)")
    axes.set_ylabel("similarity")
    axes.set_ylim(top=1.0 + 0.02 * (1.0 - axes.get_ylim()[0]))
    legend_above(figure, axes)
    rows = [
        {
            "layer": one.layer,
            "head": one.head,
            "own_head": one.duplicate,
            "kind": compared.origins[one.layer][one.head].kind,
            "right_after_growth": one.grown,
            "after_training": one.trained,
        }
        for one in duplicates
    ]
    title, caption = "New heads and the heads that they were made beside", prose.text("attention", "duplicate_marks")
    return [Plot("attention-duplicates", title, caption, figure, rows)]


def _elements(panels: Mapping[str, np.ndarray]) -> Iterator[tuple[str, int, int, float]]:
    """Each panel's name, row, column and value."""
    for name, matrix in panels.items():
        for (row, column), value in np.ndenumerate(matrix):
            yield name, row, column, float(value)


def _matrices(rows: list[_Row], columns: list[str], across: str, along: str) -> Figure:
    """Matrices of similarities on one scale; `across` is down a matrix, `along` to its right."""
    left, right, gap, top, bottom, between = 0.5, 0.6, 0.42, 0.2, 0.38, 0.46
    width = min(1.35, (WIDTH - left - right - gap * (len(columns) - 1)) / len(columns))
    heights = [max(0.35, width * row.panels[0].shape[0] / row.panels[0].shape[1]) for row in rows]
    titled = 0.17 if rows[0].title else 0.0
    canvas = Canvas(top + sum(heights) + titled * len(rows) + between * (len(rows) - 1) + bottom)
    lowest = min(float(alike.min()) for row in rows for alike in row.panels)
    scale = Normalize(min(0.9, np.floor(10 * lowest) / 10), 1.0)
    y = canvas.height - top
    for row, tall in zip(rows, heights, strict=True):
        y -= titled + tall
        for number, (alike, names) in enumerate(zip(row.panels, row.along, strict=True)):
            axes = canvas.axes((left + number * (width + gap), y), (width, tall))
            axes.imshow(alike, cmap=COLOURS, norm=scale, aspect="auto", interpolation="nearest")
            _number(axes.set_yticks, [str(i) for i in range(len(alike))], tall, down=True)
            _number(axes.set_xticks, names, width)
            axes.tick_params(length=1.5, pad=1, labelsize=TICK)
            axes.set_ylabel(across if number == 0 else "", fontsize=TICK, labelpad=2)
            axes.set_xlabel(along, fontsize=TICK, labelpad=1)
            if row.circled:
                i, j = zip(*row.circled, strict=True)
                (circles,) = axes.plot(j, i, "o", ms=3.2, mfc="none", mec="white", mew=0.8)
                circles.set_path_effects([patheffects.withStroke(linewidth=1.8, foreground="black")])
        canvas.text((left, y + tall + 0.03), row.title)
        y -= between
    for number, column in enumerate(columns):
        canvas.text((left + number * (width + gap), canvas.height - 0.03), column, TEXT, va="top")
    place = (left + len(columns) * (width + gap) - gap + 0.1, bottom)
    canvas.colour_bar(place, canvas.height - top - bottom - titled, scale, "similarity")
    return canvas.figure


def _number(set_ticks: Callable[..., object], names: list[str], inches: float, *, down: bool = False) -> None:
    """Ticks with their names, as many as can be read: across they need space for their letters, `down` for a line."""
    space = 0.12 if down else 0.03 + 0.065 * max(map(len, names))
    step = -(-len(names) // max(1, int(inches / space)))
    set_ticks(range(0, len(names), step), names[::step])
