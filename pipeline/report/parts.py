"""What a page is made of, before it is HTML."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from data_prep.report.parts import Grid
from pipeline.report.figures import Plot


@dataclass(frozen=True)
class Part:
    """A piece of a section, in the order of its fields."""

    heading: str = ""
    lines: Sequence[str] = ()
    points: Sequence[str] = ()
    terms: Sequence[tuple[str, str]] = ()
    tables: Sequence[Grid] = ()
    plots: Sequence[Plot] = ()
    beside: bool = False
    """Whether tables and figures stand beside each other, where there is room."""
    commands: Sequence[str] = ()
    settings: str = ""
    """A file as it stands."""


@dataclass(frozen=True)
class Section:
    """A section of the page."""

    name: str
    title: str
    parts: Sequence[Part] = field(default_factory=list)

    @property
    def plots(self) -> list[Plot]:
        """All its figures."""
        return [plot for part in self.parts for plot in part.plots]
