"""A figure drawn in inches, and how attention looks in all figures."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pipeline.report.attention.origins import HeadKind
from pipeline.report.figures import SIZE

COLOURS = "magma_r"
"""Perceptually uniform, and lighter for less, so that it is read in grey print too."""

WIDTH = SIZE[0]
TEXT, TICK = 8.5, 8
"""Points, as of all figures: a point is a pixel on a phone."""

KINDS: dict[HeadKind, str] = {
    "own": "the source's own head",
    "copy": "a copy of a source head",
    "next": "reading as a head of the source's next layer does",
    "mixed": "with queries of the source's next layer and the keys of this one",
    "random": "starting from random or small values",
}
LETTERS: dict[HeadKind, str] = {"own": "", "copy": "C", "next": "N", "mixed": "M", "random": "R"}
_FRAMES: dict[HeadKind, tuple[float, str]] = {
    "own": (0.4, "-"),
    "copy": (1.8, "-"),
    "next": (1.8, "--"),
    "mixed": (1.8, "-."),
    "random": (1.8, ":"),
}


class Canvas:
    """A figure of the report's width; places are (x, y) of the lower left corner, from the figure's own."""

    def __init__(self, height: float) -> None:
        self.height = height
        self.figure = Figure(figsize=(WIDTH, height))
        # One pair of axes for all maps: each further one costs more than what is drawn in it.
        self._all = self.axes((0.0, 0.0), (WIDTH, height))
        self._all.axis("off")
        self._all.set(xlim=(0.0, WIDTH), ylim=(0.0, height), autoscale_on=False)

    def axes(self, place: tuple[float, float], size: tuple[float, float]) -> Axes:
        """Return separate axes."""
        (x, y), (wide, tall) = place, size
        return self.figure.add_axes((x / WIDTH, y / self.height, wide / WIDTH, tall / self.height))

    def text(self, place: tuple[float, float], words: str, size: float = TEXT, **how: Any) -> None:
        """Write words, their lower left corner at `place` where `how` does not align them otherwise."""
        self._all.text(*place, words, fontsize=size, **how)

    def heat(
        self,
        place: tuple[float, float],
        side: float,
        values: torch.Tensor,
        scale: Normalize,
        kind: HeadKind,
        hidden: np.ndarray | None,
    ) -> None:
        """Draw one head's map, framed by what kind of head it is; what is `hidden` stays white."""
        x, y = place
        seen = values.numpy() if hidden is None else np.ma.masked_array(values.numpy(), hidden)
        extent = (x, x + side, y, y + side)
        self._all.imshow(seen, cmap=COLOURS, norm=scale, interpolation="nearest", extent=extent, aspect="auto")
        width, line = _FRAMES[kind]
        self._all.add_patch(Rectangle(place, side, side, fill=False, ec="black", lw=width, ls=line, zorder=3))

    def colour_bar(self, place: tuple[float, float], tall: float, scale: Normalize, what: str) -> None:
        """Draw what the shades mean."""
        bar = self.figure.colorbar(ScalarMappable(scale, COLOURS), cax=self.axes(place, (0.08, tall)))
        bar.ax.tick_params(labelsize=TICK, length=1.5, pad=1)
        bar.outline.set_linewidth(0.4)
        bar.set_label(what, fontsize=TICK, labelpad=1)


def attention_scale(maps: Iterable[torch.Tensor]) -> Normalize:
    """Shades that follow the square root of the weight: most weights are small, and one in each causal map is 1."""
    return PowerNorm(0.5, 0.0, max(float(values.max()) for values in maps))


def letters_in_words(kinds: Iterable[HeadKind]) -> list[str]:
    """What the letters of a figure with heads of these kinds mean."""
    found = set(kinds)
    return [f"{LETTERS[kind]}: new head, {words}" for kind, words in KINDS.items() if kind in found and LETTERS[kind]]
