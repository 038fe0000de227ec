"""Figures of the report: what one carries, how all of them look, and how they become files and elements of a page."""

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import rc_params_from_file
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.common.files import write_atomically

SIZE = (4.4, 3.1)
"""Inches: on a phone of 360 px the text of a figure stays readable."""

STYLE: dict[Any, Any] = dict(
    rc_params_from_file(Path(__file__).parent / "templates" / "figures.mplstyle", use_default_template=False)
)
"""matplotlib's settings while figures are made and saved: `matplotlib.rc_context(STYLE)`."""

GREY = "#555555"
PALE = "#b9b9b9"


@dataclass(frozen=True)
class Look:
    """How a line or an area looks, distinct without colour too."""

    color: str
    dash: Any
    marker: str
    hatch: str

    @property
    def line(self) -> dict[str, Any]:
        """What `Axes.plot` is given for a line with markers."""
        return {"color": self.color, "linestyle": self.dash, "marker": self.marker}


LOOKS = (
    Look("#0072B2", "-", "o", ""),
    Look("#D55E00", (0, (5, 1.5)), "s", "////"),
    Look("#009E73", (0, (1.2, 1.2)), "^", "...."),
    Look("#CC79A7", (0, (6, 1.5, 1.2, 1.5)), "D", "\\\\\\\\"),
    Look("#E69F00", (0, (3, 1.2)), "v", "xxxx"),
    Look("#56B4E9", (0, (8, 2)), "P", "----"),
    Look("#000000", (0, (4, 1.2, 1.2, 1.2, 1.2, 1.2)), "X", "++++"),
)
"""Okabe and Ito's colours, distinct for all kinds of colour vision, without the yellow, which is too pale for lines."""

BASELINE = Look("#555555", "-", "*", "")


def look(number: int) -> Look:
    """The look of the line with a number, counted from 0; each round of colours has other dashes, markers and hatches."""
    around, place = divmod(number, len(LOOKS))
    other = LOOKS[(place + 3 * around) % len(LOOKS)]
    return Look(LOOKS[place].color, other.dash, other.marker, other.hatch)


def look_of(one: Any, all_of_them: Sequence[Any], baseline: Any) -> Look:
    """The look of one of several methods, of which the baseline is grey."""
    others = [other for other in all_of_them if other is not baseline]
    return BASELINE if one is baseline else look(next(place for place, other in enumerate(others) if other is one))


@dataclass(frozen=True)
class Plot:
    """A figure with the words and the rows that go with it."""

    name: str
    """Its file name without an ending, unique on a page: letters, digits, dots and hyphens."""
    title: str
    caption: str
    """One or two plain sentences on what is seen."""
    figure: Figure
    """Made by `Figure(figsize=SIZE)`, not by pyplot, which would keep it in a global list."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """What is drawn, for the CSV file; all rows have the keys of the first."""
    alternative: str = ""
    """The text for those who do not see the figure; the caption where it is empty."""

    @property
    def spoken(self) -> str:
        """What is read out in place of the figure."""
        return f"{self.title}. {self.alternative or self.caption}"


def blank(size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes, whose parts leave space for each other."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(visible=True)
    return figure, axes


_ABREAST = ((13, 3), (28, 2))
"""Letters of the longest label, and how many of them stand side by side."""

_ROWS, _ROW = 3, 0.19
"""Rows of a legend that a figure has space for, and the inches that each further one adds to it."""


def legend_above(figure: Figure, axes: Axes) -> None:
    """Put the legend above the axes, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        longest = max(map(len, labels))
        columns = min(next((abreast for letters, abreast in _ABREAST if longest <= letters), 1), len(handles))
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, borderaxespad=0.2)
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, height + _ROW * max(0, math.ceil(len(handles) / columns) - _ROWS))


_AXIS = {
    "flops": "executed compute",
    "tokens": "training tokens",
    "steps": "optimizer steps",
    "seconds": "time in training steps",
}


def axis_label(quantity: str, name: str) -> str:
    """Return the words below an axis in a unit."""
    return _AXIS[quantity] + (f" ({name})" if name else "")


def widen(axes: Axes, largest: float) -> None:
    """Let an axis begin at 0 and end at the largest value, with space for markers that stand there."""
    axes.set_xlim(*((-0.02 * largest, 1.02 * largest) if largest else (0, 1)))


_UNITS = {
    "flops": (("FLOP", 1), ("GFLOP", 1e9), ("TFLOP", 1e12), ("PFLOP", 1e15), ("EFLOP", 1e18), ("ZFLOP", 1e21), ("YFLOP", 1e24)),
    "tokens": (("", 1), ("thousand", 1e3), ("million", 1e6), ("billion", 1e9), ("trillion", 1e12)),
    "steps": (("", 1),),
    "seconds": (("s", 1), ("min", 60), ("h", 3600), ("days", 86400)),
}


def unit(quantity: str, largest: float) -> tuple[str, float]:
    """Return the unit in which values up to `largest` read well, and how much one of it is."""
    fits = [one for one in _UNITS[quantity] if abs(largest) >= one[1]]
    return fits[-1] if fits else _UNITS[quantity][0]


def amount(quantity: str, value: float) -> str:
    """Return a value with its unit, to three digits; steps in full."""
    name, scale = unit(quantity, value)
    number = (
        f"{value:,.0f}" if quantity == "steps" else f"{value / scale:,.3g}" if value / scale < 1000 else f"{value / scale:,.0f}"
    )
    # A number and its unit stay on one line.
    return f"{number}\N{NO-BREAK SPACE}{name}".strip()


def to_svg(plot: Plot) -> str:
    """Return a figure as an `<svg>` element to stand in a page beside others; the same bytes for the same figure."""
    file = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": plot.name}):
        plot.figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    # Names are of the page, not of the figure: two figures have an axes_1 each.
    text = re.sub(r'\bid="([^"]+)"', rf'id="{plot.name}-\1"', text)
    text = re.sub(r'(url\(#|href="#)', rf"\1{plot.name}-", text)
    opening, _, rest = text.partition(">")
    view_box = opening[opening.index("viewBox=") :].split('"')[1]
    names = f'role="img" aria-labelledby="{plot.name}-alt" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg class="drawing" viewBox="{view_box}" {names}>{rest}'


def write_figures(directory: Path, plots: Sequence[Plot]) -> None:
    """Write each figure into a directory as NAME.png, whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    for plot in plots:
        path = directory / f"{plot.name}.png"
        partial = path.with_name(path.name + ".partial")
        with matplotlib.rc_context(STYLE):
            plot.figure.savefig(partial, format="png", dpi=200, metadata={"Software": None})
        partial.replace(path)


def write_rows(directory: Path, plots: Sequence[Plot]) -> None:
    """Write the rows behind each figure into a directory as NAME.csv, whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    for plot in plots:
        if plot.rows:
            file = io.StringIO()
            writer = csv.DictWriter(file, list(plot.rows[0]))
            writer.writeheader()
            writer.writerows(plot.rows)
            write_atomically(directory / f"{plot.name}.csv", file.getvalue())
