"""What an operator declares."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np


class Stream(StrEnum):
    """What new channels of the residual stream hold."""

    COPY = "copies"
    SQRT_COPY = "copies of h / sqrt(C)"
    MEAN_OF_COPIES = "whole copies, the rest at the mean"
    MEAN = "the mean"
    ZERO = "zeros, scaled for the norm"
    SMALL = "small values"
    INIT = "random values"


class Units(StrEnum):
    """What new heads and FFN units do."""

    COPY = "copies"
    ZERO_OUTPUT_NEXT_LAYER = "read as the next layer's, write nothing"
    ZERO_OUTPUT = "read at random, write nothing"
    SMALL = "small values"
    INIT = "random values"


Options = Mapping[str, Any]
"""What the recipe's growth section says, by key."""


@dataclass(frozen=True, slots=True)
class Option:
    """A key of the recipe's growth section."""

    name: str
    annotation: Any
    """Its type, as pydantic reads it."""
    default: Any
    description: str
    effect: Mapping[Any, str] | str = ""
    """What it does, for the reader of a report: by its value, or where it is not the default; keys of the section in braces."""


@dataclass(frozen=True, slots=True)
class StreamNorms:
    """The norms of a model that its residual stream meets."""

    kind: str
    """layer or rms: how those that read it normalize."""
    write: bool
    """Whether norms write the stream, after each branch (post-LN) or after the embeddings."""


@dataclass(frozen=True, slots=True)
class Content:
    """What an operator makes of the ports of a model."""

    stream: Stream
    units: Units
    next_layer: bool = False
    """Rows of new outputs come from the source's next layer."""

    @property
    def zero_output_units(self) -> bool:
        """Whether new heads and units write nothing, whatever they are made of."""
        return self.units in (Units.ZERO_OUTPUT, Units.ZERO_OUTPUT_NEXT_LAYER)

    @property
    def fills(self) -> bool:
        """Whether new heads and units hold values that nothing makes up for."""
        return self.units in (Units.SMALL, Units.INIT)


@dataclass(frozen=True, slots=True)
class MapRequest:
    """The map of a port that is asked for."""

    source: int
    target: int
    what: str
    """What is mapped, so that random maps of different things are drawn independently."""
    block: int
    """Indices that belong together: a head's channels of the residual stream and of FFN units; 1 for heads."""
    seed: int
    options: Options


def in_turn(request: MapRequest) -> np.ndarray:
    """New indices copy the source's from the first on, in turn."""
    return np.concatenate([np.arange(request.source), np.arange(request.source, request.target) % request.source])


@dataclass(frozen=True, slots=True, kw_only=True)
class WidthOperator:
    """A width operator."""

    name: str
    summary: str
    """A sentence for a reader who has not read the paper."""
    citation: str
    """The paper, with section and equations."""
    content: Callable[[Options, StreamNorms], Content]
    """What new indices hold, by the options and the norms of the model."""
    pick: Callable[[MapRequest], np.ndarray] = in_turn
    """Which source index each target index copies, the source's own first; raises UserError where blocks do not divide."""
    options: tuple[Option, ...] = ()
    noisy: bool = False
    """Whether `noise` alone is of use: on new rows and columns, or as the small values that they hold."""
    check: Callable[[Options], str | None] = lambda options: None
    """What is wrong with a combination of options, as a sentence."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a target layer comes from."""

    source: int | None
    """The source layer; of an average the one that counts most; None for the model's own initialization."""
    zero_output: bool = False
    """Whether it adds nothing to the residual stream at first; certificates call it `silent`."""
    added: bool = False
    """The source has no layer in this place: a repetition, or a new layer."""
    average: tuple[tuple[int, float], ...] = ()
    """Source layers and their weights, whose average it is; none where it is made of one alone."""
    scale: float = 1.0
    """What it adds to the residual stream is multiplied by it."""

    @property
    def source_layer(self) -> int:
        """The source layer; raises ValueError where the layer is at the model's own initialization."""
        if self.source is None:
            raise ValueError("a layer at random is made of no source layer")
        return self.source


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthOperator:
    """A depth operator."""

    name: str
    summary: str
    citation: str
    origins: Callable[[int, int, Options], list[Origin]]
    """Each target layer's origin, of so many source and target layers; raises UserError where a list does not fit."""
    options: tuple[Option, ...] = ()
    all_stacks: bool = False
    """Whether it is asked once, of the layers of all stacks one after the other, and not of each stack separately."""
