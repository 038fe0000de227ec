"""How a source is read before it grows: as it is stored, or as a mixture of experts (`upcycling.py`, `expert_splitting.py`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from transformers import PretrainedConfig

from pipeline.families import family_of
from pipeline.families.graph import Model
from pipeline.growth.facts import Departure
from pipeline.growth.gates import Gates
from pipeline.growth.state import OptimizerState, Rows, Source, State


@dataclass(frozen=True)
class SourceForm:
    """A source that is read as it is stored; what is read otherwise overrides what differs."""

    source: PretrainedConfig
    measured: Gates | None = field(default=None, kw_only=True)
    """The shares of new experts over tokens, where they were measured."""
    measures: bool = field(default=False, kw_only=True)
    """Whether they are to be measured before the target is filled."""

    @property
    def read_config(self) -> PretrainedConfig:
        """The configuration of the model that the source is read as."""
        return self.source

    @cached_property
    def source_graph(self) -> Model:
        """The source's graph, as it is stored."""
        return family_of(self.source).graph(self.source)

    @property
    def slices_per_network(self) -> int:
        """Into how many experts a network is cut."""
        return 1

    @property
    def remarks(self) -> list[str]:
        """What a person must know of how the source is read: sentences without a full stop."""
        return []

    @property
    def departures(self) -> list[Departure]:
        """What the model that is read computes otherwise than the source."""
        return []

    @property
    def gate_shares(self) -> str:
        """Where the shares of the experts in a gradient come from.

        Empty where every expert has the same share of every token, so that Adam's state is exact.
        """
        return ""

    @property
    def leaves_duplicates(self) -> bool:
        """Whether experts that are copies have the same gradient for ever."""
        return False

    def state(self, source: State) -> State:
        """Return the tensors that grow, made of the source's."""
        return source

    def optimizer(self, source: OptimizerState) -> OptimizerState:
        """Return what the optimizer keeps of these tensors."""
        return source

    def added_steps_left(self, before: Mapping[str, Rows | float], steps: float) -> Mapping[str, Rows | float]:
        """Return for how many steps elements have a rate of their own: `steps` of new ones, else what was left `before`."""
        return before

    def describe(self, name: str) -> str:
        """Return what one of these tensors is read from."""
        return name

    def record(self) -> dict[str, Any] | None:
        """Return what a certificate says of it; None where the source is read as it is stored."""
        return None

    def measure(self, source: Source, input_ids: torch.Tensor) -> Gates:
        """Return the shares of new experts over tokens [sequences, S], as the router begins."""
        return Gates(input_ids.numel(), ())
