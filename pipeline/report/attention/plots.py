"""Figures of a run's attention: maps of heads, and how alike heads and layers are."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure

from pipeline.report import prose
from pipeline.report.attention.compared import GROWN, SOURCE, TRAINED, ComparedHeads, HeadKind, HeadOrigin
from pipeline.report.attention.similarity import layer_similarity
from pipeline.report.figures import SIZE, Plot, blank, legend_above

KINDS: dict[HeadKind, str] = {
    "own": "the source's own head",
    "copy": "a copy of a source head",
    "next": "reading as a head of the source's next layer does",
    "mixed": "with queries of the source's next layer and the keys of this one",
    "random": "starting from random or small values",
}
_LETTERS: dict[HeadKind, str] = {"own": "", "copy": "C", "next": "N", "mixed": "M", "random": "R"}
_FRAMES: dict[HeadKind, str] = {"own": "-", "copy": "-", "next": "--", "mixed": "-.", "random": ":"}

_COLOURS = "magma_r"
"""Perceptually uniform, and lighter for less, so that it is read in grey print too."""
_WIDTH = SIZE[0]
_ACROSS = 6
"""Heads beside each other: of more, what stands above them would run together."""
_LINE = 0.12
"""Inches from one line of text to the next."""


def layer_plot(compared: ComparedHeads, layer: int) -> Plot:
    """Return a layer's heads: the source's above, what was made of them below; a column a target head."""
    origins = {head: compared.origins[layer][head] for head in compared.heads}
    states = [SOURCE, *compared.targets]
    drawn = {head: compared.maps_of(layer, head) for head in origins}
    across = min(_ACROSS, len(origins))
    figure, grid = _grid([min(0.6, 3.2 / across)] * len(states) * -(-len(origins) // across), across, top=0.2, between=0.2)
    scale = _attention_scale(values for maps in drawn.values() for values in maps.values())
    rows = []
    for number, state in enumerate(states):
        for place, (head, origin) in enumerate(origins.items()):
            axes = grid[place // across * len(states) + number, place % across]
            axes.set_title(_heading(state, head, origin))
            if place % across == 0:
                axes.set_ylabel(state.replace(" ", "\n"), rotation="horizontal", ha="right", va="center")
            if state in drawn[head]:
                _draw_map(axes, drawn[head][state], scale, compared, "own" if state == SOURCE else origin.kind)
                rows += _map_rows(compared, drawn[head][state], layer=layer, head=head, kind=origin.kind, model=state)
    _colour_bar(figure, scale, "attention")
    caption = prose.text("attention", "layer", _letters_in_words(origins.values()))
    return Plot(f"attention-layer-{layer}", f"Attention of {compared.layer_name(layer)}", caption, figure, rows)


def close_up(compared: ComparedHeads) -> list[Plot]:
    """Return one new head large enough for its tokens: the one least like its duplicate; none where no head has one."""
    duplicates = [row for row in compared.duplicates if row["layer"] in compared.layers]
    if not duplicates:
        return []
    least = min(duplicates, key=lambda row: row[compared.last.replace(" ", "_")])
    layer, head = least["layer"], least["head"]
    origin, maps = compared.origins[layer][head], compared.maps_of(layer, head)
    if {SOURCE, TRAINED} <= maps.keys():
        # Where growth copies, the source's map and the one right after growth are the same picture.
        del maps[GROWN]
    # Below each other: side by side their tokens would be too small to read on a phone.
    lines = min(26, max(14, len(compared.tokens)))
    figure, grid = _grid([_LINE * lines] * len(maps), 1, top=0.2, between=0.25, below=0.65)
    scale = _attention_scale(maps.values())
    words = [token[:9] for token in compared.tokens]
    rows = []
    for axes, (state, values) in zip(grid.flat, maps.items(), strict=True):
        _draw_map(axes, values, scale, compared, "own" if state == SOURCE else origin.kind)
        _number(axes.set_yticks, words, lines)
        shown = (origin.layer, origin.head) if state == SOURCE else (layer, head)
        axes.set_title("{}: layer {} head {}".format(state, *shown), loc="left")
        rows += _map_rows(compared, values, layer=layer, head=head, kind=origin.kind, model=state)
    _number(grid[-1, 0].set_xticks, words, lines, rotation="vertical")
    _colour_bar(figure, scale, "attention")
    title = f"Head {head} of {compared.layer_name(layer)}, token by token"
    return [Plot("attention-tokens", title, prose.text("attention", "tokens", KINDS[origin.kind]), figure, rows)]


@dataclass(frozen=True, slots=True)
class _Matrices:
    """Similarities beside each other in a figure."""

    title: str
    panels: Mapping[str, np.ndarray]
    """By what stands above them."""
    columns: Sequence[str] = ()
    """The names of each one's columns; numbers where not given."""
    circled: Sequence[tuple[int, int]] = ()
    """(row, column) of what is marked in each."""


def source_and_target(compared: ComparedHeads) -> list[Plot]:
    """Return source heads against target heads, layer by layer; none where the layers come from no source layer."""
    drawn, rows, shown = [], [], []
    for layer in compared.layers:
        source, origins = compared.plan.layers[layer].source, compared.origins[layer]
        if source is None:
            continue
        shown += origins
        panels = {when: compared.similarity(compared.source[source], maps[layer]) for when, maps in compared.targets.items()}
        circled = [(one.head, head) for head, one in enumerate(origins) if one.layer == source and one.head is not None]
        names = [f"{head}{_LETTERS[origin.kind]}" for head, origin in enumerate(origins)]
        drawn.append(_Matrices(compared.layer_name(layer), panels, names, circled))
        rows += [
            {"model": when, "source_layer": source, "source_head": i, "layer": layer, "head": j}
            | {"kind": origins[j].kind, "similarity": similarity}
            for when, i, j, similarity in _elements(panels)
        ]
    caption = prose.text("attention", "source_target", _letters_in_words(shown))
    title = "Heads of the source and of the target"
    return _similarities("attention-source-target", title, caption, drawn, rows, ("source head", "target head"))


def within_layers(compared: ComparedHeads) -> list[Plot]:
    """Return heads of a layer against each other, in the source and in the target; none for added layers alone."""
    drawn, rows = [], []
    for layer in compared.layers:
        origin = compared.plan.layers[layer]
        if origin.added:
            continue
        heads = compared.source[origin.source]
        panels = {
            SOURCE: compared.similarity(heads, heads),
            f"target, {compared.last}": compared.within[compared.last][layer],
        }
        drawn.append(_Matrices(compared.layer_name(layer), panels))
        rows += [
            {"model": model, "layer": layer, "head": i, "other_head": j, "similarity": similarity}
            for model, i, j, similarity in _elements(panels)
        ]
    title, caption = "Heads of one layer beside each other", prose.text("attention", "within_layers")
    return _similarities("attention-within-layers", title, caption, drawn, rows, ("head", "head"))


def layers_plot(compared: ComparedHeads) -> list[Plot]:
    """Return source layers against target layers."""
    panels = {when: layer_similarity(compared.source, maps, causal=compared.causal) for when, maps in compared.targets.items()}
    circled = [(origin.source, layer) for layer, origin in enumerate(compared.plan.layers) if origin.source is not None]
    rows: list[dict[str, Any]] = [
        {"model": when, "source_layer": i, "layer": j, "similarity": similarity} for when, i, j, similarity in _elements(panels)
    ]
    title, caption = "Layers of the source and of the target", prose.text("attention", "layers")
    drawn = [_Matrices("", panels, compared.layer_numbers, circled)]
    return _similarities("attention-layers", title, caption, drawn, rows, ("source layer", "target layer"))


def duplicates_plot(compared: ComparedHeads) -> list[Plot]:
    """Return each new head beside the source's own head of its layer; none where no head has one."""
    if not compared.duplicates:
        return []
    figure, axes = blank((_WIDTH, 2.8))
    for label, shift, marker, fill in ((GROWN, -0.12, "o", "none"), (TRAINED, 0.12, "^", "0.25")):
        if label in compared.targets:
            values = [row[label.replace(" ", "_")] for row in compared.duplicates]
            places = [row["layer"] + shift for row in compared.duplicates]
            axes.plot(places, values, marker, ms=4, mec="black", mfc=fill, mew=0.8, label=label, clip_on=False, zorder=3)
    if compared.unrelated is not None:
        axes.axhline(compared.unrelated, color="0.4", lw=0.8, ls="--", label="heads made from different ones")
    _number(axes.set_xticks, compared.layer_numbers, 60)
    axes.set_xlabel("target layer (+ added)")
    axes.set_ylabel("similarity")
    axes.set_ylim(top=1.0 + 0.02 * (1.0 - axes.get_ylim()[0]))
    legend_above(figure, axes)
    title, caption = "New heads and the heads that they were made beside", prose.text("attention", "duplicate_marks")
    return [Plot("attention-duplicates", title, caption, figure, compared.duplicates)]


def _similarities(
    name: str, title: str, caption: str, drawn: Sequence[_Matrices], rows: list[dict[str, Any]], labels: tuple[str, str]
) -> list[Plot]:
    """Matrices on one scale, `labels` down and along each; no figure where there is none."""
    if not drawn:
        return []
    down, along = labels
    width = 1.35
    shapes = [next(iter(one.panels.values())).shape for one in drawn]
    heights = [max(0.35, width * rows / columns) for rows, columns in shapes]
    figure, grid = _grid(heights, len(drawn[0].panels), top=0.35, between=0.62, below=0.4, apart=0.25)
    lowest = min(float(alike.min()) for one in drawn for alike in one.panels.values())
    scale = Normalize(min(0.9, np.floor(10 * lowest) / 10), 1.0)
    for number, (line, one, tall) in enumerate(zip(grid, drawn, heights, strict=True)):
        for place, (axes, (heading, alike)) in enumerate(zip(line, one.panels.items(), strict=True)):
            axes.imshow(alike, cmap=_COLOURS, norm=scale, interpolation="nearest")
            axes.spines[:].set_visible(True)
            _number(axes.set_yticks, list(map(str, range(len(alike)))), int(tall / _LINE))
            names = one.columns or list(map(str, range(alike.shape[1])))
            _number(axes.set_xticks, names, int(width / (0.03 + 0.065 * max(map(len, names)))))
            axes.set(xlabel=along, ylabel=down if place == 0 else "")
            axes.set_title("\n".join([heading] * (number == 0) + [one.title if place == 0 else ""]).strip(), loc="left")
            if one.circled:
                i, j = zip(*one.circled, strict=True)
                (circles,) = axes.plot(j, i, "o", ms=3.2, mfc="none", mec="white", mew=0.8)
                circles.set_path_effects([patheffects.withStroke(linewidth=1.8, foreground="black")])
    _colour_bar(figure, scale, "similarity")
    return [Plot(name, title, caption, figure, rows)]


def _grid(
    heights: Sequence[float], columns: int, *, top: float, between: float, below: float = 0.04, apart: float = 0.08
) -> tuple[Figure, np.ndarray]:
    """Return a figure of rows of so many inches, and its axes [rows, columns].

    `top`, `between` and `below` the rows are inches for words; columns are `apart` by that share of their width.
    """
    # A layout that is found by drawing takes ten times as long.
    tall = top + sum(heights) + between * (len(heights) - 1) + below
    figure = Figure(figsize=(_WIDTH, tall))
    figure.subplots_adjust(0.14, below / tall, 0.855, 1 - top / tall, apart, between * len(heights) / sum(heights))
    grid = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.tick_params(length=1.5, pad=1)
        axes.spines[:].set_visible(False)
    return figure, grid


def _draw_map(axes: Axes, values: torch.Tensor, scale: Normalize, compared: ComparedHeads, kind: HeadKind) -> None:
    """Draw one head's map, framed by what kind of head it is; what a causal mask hides stays white."""
    hidden = np.triu(np.full(values.shape, compared.causal), 1)
    axes.imshow(np.ma.masked_array(values.numpy(), hidden), cmap=_COLOURS, norm=scale, interpolation="nearest")
    axes.spines[:].set(visible=True, color="black", linewidth=0.4 if kind == "own" else 1.8, linestyle=_FRAMES[kind])


def _colour_bar(figure: Figure, scale: Normalize, what: str) -> None:
    """Draw what the shades mean, to the right of the rows."""
    rows = figure.subplotpars
    place = figure.add_axes((rows.right + 0.02, rows.bottom, 0.018, rows.top - rows.bottom))
    bar = figure.colorbar(ScalarMappable(scale, _COLOURS), cax=place)
    bar.set_label(what, labelpad=1)
    bar.ax.tick_params(length=1.5, pad=1, labelsize=8)
    bar.outline.set_linewidth(0.4)


def _attention_scale(maps: Iterable[torch.Tensor]) -> Normalize:
    """Shades that follow the square root of the weight: most weights are small, and one in each causal map is 1."""
    return PowerNorm(0.5, 0.0, max(float(values.max()) for values in maps))


def _letters_in_words(origins: Iterable[HeadOrigin]) -> list[str]:
    """What the letters of a figure with heads of these origins mean."""
    found = {origin.kind for origin in origins}
    return [f"{_LETTERS[kind]}: new head, {words}" for kind, words in KINDS.items() if kind in found and _LETTERS[kind]]


def _heading(state: str, head: int, origin: HeadOrigin) -> str:
    """What stands above a map: the head, and right after growth its letter and the source head that it was made from."""
    if state == SOURCE:
        made_from = f"H{origin.head}" if origin.kind != "next" else f"L{origin.layer} H{origin.head}"
        return "–" if origin.head is None else made_from
    mark = _LETTERS[origin.kind] + (f"{origin.head}" if origin.kind != "own" and origin.head is not None else "")
    return f"H{head} {mark}".rstrip() if state == GROWN else f"H{head}"


def _map_rows(compared: ComparedHeads, values: torch.Tensor, **what: Any) -> list[dict[str, Any]]:
    tokens = compared.tokens
    return [
        {**what, "query": query, "query_token": tokens[query], "key": key, "key_token": tokens[key], "weight": weight}
        for query, weights in enumerate(values.tolist())
        for key, weight in enumerate(weights)
        if key <= query or not compared.causal
    ]


def _elements(panels: Mapping[str, np.ndarray]) -> Iterator[tuple[str, int, int, float]]:
    """Each panel's name, row, column and value."""
    for name, matrix in panels.items():
        for (row, column), value in np.ndenumerate(matrix):
            yield name, row, column, float(value)


def _number(set_ticks: Callable[..., object], names: Sequence[str], most: int, **how: Any) -> None:
    """Set ticks with their names, at most so many of them: as many as can be read."""
    step = -(-len(names) // max(1, most))
    set_ticks(range(0, len(names), step), names[::step], **how)
