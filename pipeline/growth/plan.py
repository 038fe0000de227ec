"""The growth plan: for each target tensor, the rows and columns of the source it is made of, their scales and noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from transformers import PretrainedConfig

from data_prep.errors import UserError
from pipeline.families import Axis, AxisKind, Family, Sizes, TensorSpec, family_of, sizes_of
from pipeline.growth.adam import Kept, MomentSides, fresh_adam, grown_adam, moment_sides
from pipeline.growth.axes import AxisMap, build_maps
from pipeline.growth.choice import resolve
from pipeline.growth.depth import LayerOrigin, layer_origins
from pipeline.growth.grown import GrownTensor, MeasuredTensor, Noise
from pipeline.growth.initialization import initialized
from pipeline.growth.operators import Residual, Units, WidthOperator, head_channels, residual_sides, unit_sides, width_operator
from pipeline.growth.passing_norms import PassingNorm
from pipeline.growth.positions import StretchedPositions, repeated_positions
from pipeline.growth.sides import INIT, MEAN, Side
from pipeline.growth.state import Constant, OptimizerState, Rows, State
from pipeline.recipe import GrowthConfig

Sides = Mapping[tuple[AxisKind, str, str], Side]
"""By kind of axis, part and use."""


@dataclass(frozen=True)
class GrowthPlan:
    """How one model grows into another."""

    family: Family
    source: Sizes
    target: Sizes
    growth: GrowthConfig
    """As resolved: `auto` has become the operator that was taken."""
    choices: list[str]
    """What was left open and how it was settled: sizes that no one named, and what `auto` took, each with the reason."""
    seed: int
    operator: WidthOperator
    maps: Mapping[AxisKind, AxisMap]
    layers: list[LayerOrigin]
    sides: Sides
    initial: State
    """The target at the model's own random initialization."""

    def grow(self, state: State, dtype: torch.dtype = torch.float32) -> dict[str, Rows]:
        """Return the target's state, computed in `dtype` or the source's wider one; nothing is computed until rows are read."""
        # Statistics of a source tensor are taken once for all that is made of it.
        measured = {name: MeasuredTensor(tensor) for name, tensor in state.items()}
        return {name: self._grown(name, spec, layer, measured, dtype) for name, (spec, layer) in self.specs.items()}

    def grow_optimizer(self, optimizer: OptimizerState | None) -> OptimizerState:
        """Return Adam's state of the target (`adam.py` has the rule); raises UserError where the source has none."""
        if not optimizer:
            raise UserError(
                "growth.optimizer_state: grow needs the source's Adam state, which neither a Hugging Face directory nor a "
                "checkpoint grown without it holds; name a run directory, a checkpoint of one or a DeepSpeed checkpoint "
                "(of transformers' Trainer: output_dir/checkpoint-N), or choose fresh"
            )
        for name, kept in optimizer.items():
            if not kept.keys() >= {"exp_avg", "exp_avg_sq", "step"}:
                raise UserError(
                    f"growth.optimizer_state: grow needs the source's Adam state, and of tensor {name!r} its optimizer kept "
                    f"{', '.join(sorted(kept))} alone; choose fresh"
                )
        return {name: self._grown_adam(spec, layer, optimizer) for name, (spec, layer) in self.specs.items()}

    def annealed_over(self, steps: int) -> "GrowthPlan":
        """Return the plan whose weighted norms turn to stock norms over so many steps of training."""
        reason = f"norm_anneal_steps: {steps}, since the model is trained for no more steps, and ends with stock norms"
        growth = self.growth.model_copy(update={"norm_anneal_steps": steps})
        return replace(self, growth=growth, choices=[*self.choices, reason])

    def tensor_sides(self, spec: TensorSpec) -> tuple[Side, Side | None]:
        """Return the sides of a tensor's storage axes, the same in all layers; the second is None for a vector."""
        return self._sides_of[spec]

    @cached_property
    def specs(self) -> dict[str, tuple[TensorSpec, int | None]]:
        """What each tensor of the target means, and its layer."""
        return self.family.specs(self.target)

    @cached_property
    def _sides_of(self) -> dict[TensorSpec, tuple[Side, Side | None]]:
        """By the tensor's meaning, so that what a side works out of its indices is worked out once for all layers."""
        sides = {}
        for spec in dict.fromkeys(spec for spec, _ in self.specs.values()):
            first, *second = [
                Side.identity(self.target.max_position_embeddings)
                if axis.kind is AxisKind.POSITIONS and self.stretches(spec)
                else self._side(axis, spec)
                for axis in spec.axes
            ]
            sides[spec] = first, second[0] if second else None
        return sides

    @cached_property
    def _moment_sides_of(self) -> dict[TensorSpec, MomentSides]:
        return {spec: moment_sides(*sides, self.growth.element_rates) for spec, sides in self._sides_of.items()}

    def _grown(
        self, name: str, spec: TensorSpec, layer: int | None, state: Mapping[str, MeasuredTensor], dtype: torch.dtype
    ) -> Rows:
        origin = None if layer is None else self.layers[layer]
        if origin is not None and origin.source is None:
            return self.initial[name]
        if origin is not None and origin.silent and spec.writes_residual:
            return Constant(self.target.shape(spec), 0.0)
        own = following = state[spec.name if origin is None else spec.name.format(layer=origin.source)]
        if origin is not None:
            # The top layer has no next one: its own rows stand in (bert2BERT 3.3.2).
            following = state[spec.name.format(layer=min(origin.source + 1, self.source.num_hidden_layers - 1))]
        if self.passes_on(spec, layer):
            ends = {end.norm: state[end.name.format(layer=origin.source)] for end in self.layer_ends}
            own = following = MeasuredTensor(PassingNorm(spec.norm, ends["gain"], ends["bias"]))
        if self.stretches(spec):
            own = following = MeasuredTensor(
                StretchedPositions(own, self.target.max_position_embeddings, self.family.position_offset)
            )
        return GrownTensor(
            ("growth", self.seed, name),
            own,
            following,
            *self.tensor_sides(spec),
            dtype=torch.promote_types(_dtype_of(own), dtype),
            init=self.initial[name],
            small=self.growth.noise,
            noise=self.noise_of(spec),
        )

    def _grown_adam(self, spec: TensorSpec, layer: int | None, optimizer: OptimizerState) -> Kept:
        rates = self.growth.element_rates
        origin = None if layer is None else self.layers[layer]
        if (origin is not None and origin.added) or self.stretches(spec):
            return fresh_adam(self.target.shape(spec), rates)
        source = optimizer.get(spec.name if origin is None else spec.name.format(layer=origin.source))
        if source is None:  # frozen throughout
            return fresh_adam(self.target.shape(spec), rates)
        return grown_adam(source, self.source.shape(spec), self._moment_sides_of[spec], rates)

    def passes_on(self, spec: TensorSpec, layer: int | None) -> bool:
        """Whether a tensor is of a norm that is to give back what comes in, its layer writing nothing after a norm."""
        return not self.family.pre_norm and spec.norm is not None and layer is not None and self.layers[layer].silent

    @cached_property
    def layer_ends(self) -> tuple[TensorSpec, TensorSpec]:
        """Gain and bias of the norm that a post-LN layer ends in."""
        gain, bias = [spec for spec in self.family.tensors if spec.block == "layer" and spec.norm is not None][-2:]
        return gain, bias

    def stretches(self, spec: TensorSpec) -> bool:
        """Whether a tensor is a table of positions that is stretched."""
        return (
            self.growth.positions == "interpolate"
            and spec.axes[0].kind is AxisKind.POSITIONS
            and self.target.max_position_embeddings > self.source.max_position_embeddings
        )

    def _side(self, axis: Axis, spec: TensorSpec) -> Side:
        use = axis.role
        if spec.norm is not None:
            # A tied output matrix is the embedding (bert2BERT eq. 9) and cannot carry 1/C (eq. 7): the norm before it does.
            use = ("final_" if spec.final_norm and self.target.tied else "") + spec.norm
        side = Side.joined([self.sides[axis.kind, part, use] for part in axis.parts], self.source.of(axis.kind))
        # Embeddings and the head have no next layer.
        return side if spec.block == "layer" else replace(side, next_layer=None)

    def noise_of(self, spec: TensorSpec) -> Noise | None:
        """Return the noise on a tensor's copies."""
        if self.growth.noise == 0 or len(spec.axes) == 1:
            return None
        if self.growth.symmetry != "none":
            summed = [number for number, axis in enumerate(spec.axes) if axis.role == "in"]
            return Noise(self.growth.symmetry, self.growth.noise, summed[0]) if summed else None
        return Noise("new", self.growth.noise, 0) if self.growth.width == "nai" else None


def _dtype_of(tensor: Rows) -> torch.dtype:
    """The dtype that a tensor's rows come in."""
    return tensor.rows(0, 1).dtype


def plan_growth(
    source: PretrainedConfig,
    target: PretrainedConfig,
    growth: GrowthConfig,
    seed: int,
    *,
    derived: Sequence[str] = (),
    stock: bool = False,
) -> GrowthPlan:
    """Return the plan that grows a model of one configuration into the other.

    `derived` says which sizes of the target were worked out and how. `stock` keeps `auto` from weighted norms, which no
    file can hold. Raises UserError for sizes that the operator cannot reach, and for options that leave parts of the
    target without a gradient for ever.
    """
    family = family_of(source, "source")
    old, new = sizes_of(source), sizes_of(target)
    growth, choices = resolve(growth, family, old, new, stock=stock)
    maps = build_maps(old, new, growth, seed)
    operator = width_operator(growth, family)
    _refuse_idle_options(growth, family, operator)
    _refuse_deadlock(growth, old, new)
    return GrowthPlan(
        family=family,
        source=old,
        target=new,
        growth=growth,
        choices=[*derived, *choices],
        seed=seed,
        operator=operator,
        maps=maps,
        layers=layer_origins(old.num_hidden_layers, new.num_hidden_layers, growth),
        sides=_all_sides(family, old, new, growth, maps, operator),
        initial=initialized(family, target, seed),
    )


def _all_sides(
    family: Family, old: Sizes, new: Sizes, growth: GrowthConfig, maps: Mapping[AxisKind, AxisMap], operator: WidthOperator
) -> Sides:
    sides: dict[tuple[AxisKind, str, str], Side] = {}
    for use, side in residual_sides(operator, maps[AxisKind.RESIDUAL], family).items():
        sides[AxisKind.RESIDUAL, "", use] = side
    # What pools the residual stream copies as it does, and is read by no norm: its new channels are units.
    for kind, axis_map in ((AxisKind.FFN, maps[AxisKind.FFN]), (AxisKind.POOLED, maps[AxisKind.RESIDUAL])):
        for use, side in unit_sides(operator, axis_map).items():
            sides[kind, "", use] = side
    for kind in (AxisKind.HEADS, AxisKind.KV_HEADS):
        channels = head_channels(operator, unit_sides(operator, maps[kind]), family, old, new, growth.paper_factor)
        for (part, use), side in channels.items():
            sides[AxisKind.HEAD_DIM if use == "gain" else kind, part, use] = side
    vocabulary = torch.arange(new.vocab_size)
    filled = MEAN if growth.vocabulary == "mean" else INIT
    side = Side(torch.where(vocabulary < old.vocab_size, vocabulary, filled))
    sides[AxisKind.VOCAB, "", "index"] = sides[AxisKind.VOCAB, "", "out"] = side
    sides[AxisKind.POSITIONS, "", "index"] = repeated_positions(
        old.max_position_embeddings, new.max_position_embeddings, family.position_offset
    )
    sides[AxisKind.SEGMENTS, "", "index"] = Side.identity(old.segments)
    sides[AxisKind.VERDICTS, "", "out"] = Side.identity(old.of(AxisKind.VERDICTS))
    return sides


def _refuse_idle_options(growth: GrowthConfig, family: Family, operator: WidthOperator) -> None:
    """An option without anything to act on is a misunderstanding."""
    if growth.positions == "interpolate" and family.rotary:
        raise UserError(f"growth.positions: {family.name} turns queries and keys by position and has no table to interpolate")
    copies = operator.units is Units.COPY or operator.residual is Residual.COPY
    if growth.symmetry != "none" and not copies:
        raise UserError(f"growth.symmetry: {growth.width} makes no twins of {family.name}'s channels; leave it out")


def _refuse_deadlock(growth: GrowthConfig, old: Sizes, new: Sizes) -> None:
    """Zeros at both the writer and the reader of a new channel have no gradient, ever."""
    tables = (AxisKind.VOCAB, AxisKind.POSITIONS)
    units = [kind for kind in AxisKind if kind not in tables and new.of(kind) > old.of(kind)]
    if growth.width == "zero_pad" and not growth.scaled and growth.noise == 0 and units:
        raise UserError(
            f"growth.width: zero_pad with zeros on both sides of a new channel ({units[0]}) leaves it without a gradient for "
            "ever; set `noise` for small values (0.02, say), or `scaled: true` for the exact form"
        )
