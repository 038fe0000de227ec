"""Figures of how alike heads and layers are: matrices, and duplicates on a line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import patheffects
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

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
    rows, drawn, kinds = [], [], []
    for layer in compared.layers:
        source, origins = compared.plan.layers[layer].source, compared.origins[layer]
        if source is None:
            continue
        kinds += [origin.kind for origin in origins]
        panels = {
            when: head_similarity(compared.maps.source[source], maps[layer], causal=compared.causal)
            for when, maps in compared.maps.targets.items()
        }
        circled = [(origin.head, head) for head, origin in enumerate(origins) if origin.layer == source]
        names = [f"{head}{LETTERS[origin.kind]}" for head, origin in enumerate(origins)]
        drawn.append(_Row(compared.layer_name(layer), list(panels.values()), [names] * len(panels), circled))
        for when, alike in panels.items():
            for i, j, similarity in _elements(alike):
                place = {"source_layer": source, "source_head": i, "layer": layer, "head": j, "kind": origins[j].kind}
                rows.append({"model": when, **place, "similarity": similarity})
    if not drawn:
        return []
    key = "; ".join(letters_in_words(kinds))
    return [
        Plot(
            name="attention-source-target",
            title="Heads of the source and of the target",
            caption="Darker is more alike; a circle marks the source head that a target head was made from."
            + (f" Letters: {key}." if key else ""),
            figure=_matrices(drawn, list(compared.maps.targets), "source head", "target head"),
            rows=rows,
        )
    ]


def within_layers(compared: ComparedHeads) -> list[Plot]:
    """Return heads of a layer against each other, in the source and in the target; none for added layers alone."""
    when = list(compared.within)[-1]
    drawn, rows = [], []
    for layer in compared.layers:
        origin = compared.plan.layers[layer]
        if origin.added:
            continue
        heads = compared.maps.source[origin.source]
        panels = {
            SOURCE: head_similarity(heads, heads, causal=compared.causal),
            f"target, {when}": compared.within[when][layer],
        }
        names = [[str(head) for head in range(len(alike))] for alike in panels.values()]
        drawn.append(_Row(compared.layer_name(layer), list(panels.values()), names))
        for model, alike in panels.items():
            for i, j, similarity in _elements(alike):
                rows.append({"model": model, "layer": layer, "head": i, "other_head": j, "similarity": similarity})
    if not drawn:
        return []
    return [
        Plot(
            name="attention-within-layers",
            title="Heads of one layer beside each other",
            caption="Darker is more alike. Neighbouring heads stand beside the diagonal: NAI copies them because it takes them "
            "to be more alike than others.",
            figure=_matrices(drawn, [SOURCE, f"target, {when}"], "head", "head"),
            rows=rows,
        )
    ]


def layers_plot(compared: ComparedHeads) -> Plot:
    """Return source layers against target layers."""
    panels = {
        when: layer_similarity(compared.maps.source, maps, causal=compared.causal)
        for when, maps in compared.maps.targets.items()
    }
    circled = [(origin.source, layer) for layer, origin in enumerate(compared.plan.layers) if origin.source is not None]
    drawn = _Row("", list(panels.values()), [compared.layer_numbers] * len(panels), circled)
    return Plot(
        name="attention-layers",
        title="Layers of the source and of the target",
        caption=(
            "Darker is more alike: the mean, over the heads of a target layer, of how alike each is to the head of the source "
            "layer that is most like it. A circle marks the source layer that a target layer was made from, + an added layer."
        ),
        figure=_matrices([drawn], list(panels), "source layer", "target layer"),
        rows=[
            {"model": when, "source_layer": i, "layer": j, "similarity": similarity}
            for when, alike in panels.items()
            for i, j, similarity in _elements(alike)
        ],
    )


def duplicates_plot(compared: ComparedHeads) -> list[Plot]:
    """Return each new head beside the source's own head of its layer; none where no head has one."""
    duplicates = compared.duplicates()
    if not duplicates:
        return []
    figure, axes = blank((WIDTH, 2.8))
    drawn = [(-0.12, "o", "none", GROWN, [duplicate.grown for duplicate in duplicates])]
    if compared.maps.trained is not None:
        drawn.append((0.12, "^", "0.25", TRAINED, [duplicate.trained for duplicate in duplicates]))
    for shift, marker, fill, label, values in drawn:
        places = [duplicate.layer + shift for duplicate in duplicates]
        axes.plot(places, values, marker, ms=4, mec="black", mfc=fill, mew=0.8, label=label, clip_on=False, zorder=3)
    if not np.isnan(compared.unrelated()):
        axes.axhline(compared.unrelated(), color="0.4", lw=0.8, ls="--", label="heads made from different ones")
    _number(axes.set_xticks, compared.layer_numbers, WIDTH - 0.8)
    axes.set_xlabel("target layer (+ added)")
    axes.set_ylabel("similarity")
    axes.set_ylim(top=1.0 + 0.02 * (1.0 - axes.get_ylim()[0]))
    legend_above(figure, axes)
    return [
        Plot(
            name="attention-duplicates",
            title="New heads and the heads that they were made beside",
            caption=(
                "A mark is a new head: how alike it and the source's own head of its layer are. At 1 the two are "
                "duplicates; the broken line is where heads stand that are made from different ones."
            ),
            figure=figure,
            rows=[
                {
                    "layer": duplicate.layer,
                    "head": duplicate.head,
                    "own_head": duplicate.duplicate,
                    "kind": compared.origins[duplicate.layer][duplicate.head].kind,
                    "right_after_growth": duplicate.grown,
                    "after_training": duplicate.trained,
                }
                for duplicate in duplicates
            ],
        )
    ]


def _elements(matrix: np.ndarray) -> list[tuple[int, int, float]]:
    return [(*place, float(value)) for place, value in np.ndenumerate(matrix)]


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
    """Ticks with their names, as many as can be read: across they need room for their letters, `down` for a line."""
    room = 0.12 if down else 0.03 + 0.065 * max(map(len, names))
    step = -(-len(names) // max(1, int(inches / room)))
    set_ticks(range(0, len(names), step), names[::step])
