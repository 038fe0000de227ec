"""The tensors of experts as slices of a source's tensors, along the units of its feed-forward networks."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PretrainedConfig

from pipeline.families import MIXTURE_FORMS, family_of
from pipeline.families.graph import Experts, Mlp, Model
from pipeline.growth.gates import Share
from pipeline.growth.grown_tensor import MeasuredTensor
from pipeline.growth.initialization import initialized
from pipeline.growth.moments import Kept
from pipeline.growth.row_views import TensorBlock
from pipeline.growth.source_form import SourceForm
from pipeline.growth.state import OptimizerState, Rows, State
from pipeline.recipe import GrowthConfig


@dataclass(frozen=True, slots=True)
class ExpertSlice:
    """The slice of a source's tensor that a tensor of an expert is, and what becomes of Adam's moments."""

    tensor: str
    rows: slice
    columns: slice
    factor: float
    first: float
    """What exp_avg is multiplied by."""
    second: float
    """What exp_avg_sq is multiplied by."""
    unit_axis: int
    """The storage axis of its units."""
    expert: int | None
    """None for the shared expert."""

    @property
    def shape(self) -> tuple[int, int]:
        """The tensor's shape."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    @property
    def units(self) -> slice:
        """The units of the source's network."""
        return self.columns if self.unit_axis else self.rows

    def of(self, tensor: Rows, factor: float = 1.0) -> TensorBlock:
        """Return the slice of a tensor of the source's shape, times a factor."""
        return TensorBlock(tensor, self.rows, self.columns, factor)


@dataclass(frozen=True)
class MixtureForm(SourceForm, ABC):
    """A source that is read as a mixture of experts, which then grows."""

    config: PretrainedConfig
    """That of the mixture, at the source's sizes."""
    growth: GrowthConfig
    seed: int

    @property
    def read_config(self) -> PretrainedConfig:
        """The mixture's configuration."""
        return self.config

    @cached_property
    def graph(self) -> Model:
        """The mixture's graph."""
        return family_of(self.config).graph(self.config)

    @property
    def first(self) -> Experts:
        """The first of the mixtures, which are all alike."""
        return self.graph.experts[0][1]

    @property
    @abstractmethod
    def slices(self) -> Mapping[str, ExpertSlice]:
        """What each tensor of an expert is made of, by name."""

    @abstractmethod
    def routers(self, source: State) -> dict[str, Rows]:
        """Return the routers, and what else decides how much of an expert's output is added."""

    def weights(self, name: str, made_of: ExpertSlice, source: MeasuredTensor) -> Rows:
        """Return a tensor of an expert, made of one of the source's."""
        whole = made_of.factor == 1.0 and made_of.shape == tuple(source.shape)
        return source.tensor if whole else made_of.of(source.tensor, made_of.factor)

    def moments(self, name: str, made_of: ExpertSlice, kept: Mapping[str, Rows | float]) -> Kept:
        """Return what Adam keeps of a tensor of an expert, `kept` being what it keeps of the source's tensor."""
        factors = {"exp_avg": made_of.first, "exp_avg_sq": made_of.second, "momentum_buffer": made_of.first}
        if self.growth.element_rates:
            # The source's own dynamics go on at the rate a lr, and at the eps that stands beside the root of exp_avg_sq.
            kept = {"lr_factor": 1.0, "eps_factor": 1.0} | dict(kept)
            factors |= {"lr_factor": made_of.factor, "eps_factor": made_of.second**0.5}
        moved: dict[str, Rows | float] = {}
        for key, held in kept.items():
            factor = factors.get(key, 1.0)
            moved[key] = held * factor if isinstance(held, float) else made_of.of(held, factor)
        return moved

    def state(self, source: State) -> State:
        """Return the mixture's tensors, made of the source's."""
        initial = initialized(family_of(self.config), self.config, self.seed)
        measured = {name: MeasuredTensor(tensor) for name, tensor in source.items()}
        experts = {name: self.weights(name, each, measured[each.tensor]) for name, each in self.slices.items()}
        return {**{name: source.get(name, tensor) for name, tensor in initial.items()}, **experts, **self.routers(source)}

    def optimizer(self, source: OptimizerState) -> OptimizerState:
        """Return what Adam keeps of the mixture's tensors; routers, new units, and experts that no token chose start without.

        Expert e of a token t has the gate g_e(t), and its slice W' = a W writes c times what W does. The gradient of W' is
        then the sum over tokens of (c g_e(t) / a) dW(t), so that exp_avg, and Muon's momentum_buffer, are multiplied by the
        mean of that factor, and exp_avg_sq by the mean of its square, as if tokens' gradients were independent of each other
        and of the gates.
        """
        made = {*self.slices, *(body.router.weight for _, body in self.graph.experts)}
        kept = {name: entry for name, entry in source.items() if name in self.graph.tensors() and name not in made}
        # Of an expert that no token chose exp_avg_sq would be 0, and its first update too large; without a state its steps
        # are counted from 0.
        slices = {name: each for name, each in self.slices.items() if each.tensor in source and each.second > 0}
        return kept | {name: self.moments(name, each, source[each.tensor]) for name, each in slices.items()}

    def added_steps_left(self, before: Mapping[str, Rows | float], steps: float) -> Mapping[str, Rows | float]:
        """Return for how many steps elements have a rate of their own: `steps` of those that the source lacks.

        `before` is what was left of the source's tensors.
        """
        source, found = self.source_graph.tensors(), dict[str, Rows | float]()
        for name in self.graph.tensors():
            found[name] = before.get(name, 0.0) if name in source else steps
        for name, each in self.slices.items():
            found[name] = self.slice_steps_left(name, each, before.get(each.tensor, 0.0), steps)
        return found

    def slice_steps_left(self, name: str, made_of: ExpertSlice, before: Rows | float, steps: float) -> Rows | float:
        """Return the same of a tensor of an expert."""
        return before if isinstance(before, float) else made_of.of(before)

    def slices_of_network(
        self, old: Mlp, new: Mlp, units: slice, writes: float, share: Share, expert: int | None
    ) -> dict[str, ExpertSlice]:
        """Return the slices of one network made of these units of another, whose output is multiplied by `writes`."""
        stream, found = slice(0, self.source_graph.sizes["residual"]), {}
        for one, other in zip(old.inputs, new.inputs, strict=True):
            moments = writes * share.mean, writes**2 * share.square
            found[other.weight] = ExpertSlice(one.weight, units, stream, 1.0, *moments, 0, expert)
        found[new.last.weight] = ExpertSlice(old.last.weight, stream, units, writes, share.mean, share.square, 1, expert)
        return found

    def describe(self, name: str) -> str:
        """Return what one of the mixture's tensors is read from."""
        if name not in self.slices:
            return name if name in self.source_graph.tensors() else "new"
        made_of = self.slices[name]
        units = made_of.units
        size = self.source_graph.tensors()[made_of.tensor].shape(self.source_graph.sizes)[made_of.unit_axis]
        said = [made_of.tensor + (f" units {units.start} to {units.stop}" if units.stop - units.start < size else "")]
        said += [f"x {made_of.factor:g}"] if made_of.factor != 1.0 else []
        return ", ".join([*said, *self.changes(made_of)])

    def record(self) -> dict[str, Any]:
        """Return what a certificate says of it."""
        return {
            "model_type": self.source.model_type,
            "experts": len(self.first.each),
            "experts_per_token": self.first.per_token,
            "pieces": self.slices_per_network,
            **{key: getattr(self.config, key) for key in MIXTURE_FORMS if hasattr(self.config, key)},
            "gate_shares": None,
        }

    def changes(self, made_of: ExpertSlice) -> list[str]:
        """Return what is done to a slice."""
        return []
