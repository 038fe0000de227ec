"""The live sink: a state written into a DeepSpeed engine, each rank computing its own pieces.

One pass after `deepspeed.initialize`, a chunk at a time, each computed once: the fp32 masters, the low-precision weights
beside them, and what the optimizer keeps of each. Under ZeRO-3 no rank ever holds a whole tensor, and masters that
lie on a disk come into memory one after the other.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from deepspeed import DeepSpeedEngine
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from torch import nn

from pipeline.common.progress import Advance, Meter
from pipeline.growth.added_steps import ADDED_STEPS_LEFT
from pipeline.growth.state import OptimizerState, Rows, State, default_value, flat
from pipeline.growth.streaming import CHUNK_ELEMENTS

SCALARS = ("step", "lr_factor", "eps_factor", ADDED_STEPS_LEFT)
"""What the optimizer may keep as one number for a whole master; all else has one per element."""

_GROUP_PARTITIONS = {
    DeepSpeedZeroOptimizer: "single_partition_of_fp32_groups",
    # What stage 1 becomes where gradients are summed in fp32 beside bf16 weights.
    BF16_Optimizer: "fp32_groups_flat_partition",
}
"""ZeRO-1 and 2: where a rank's part of each group is."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """Elements [start, stop) of a flattened parameter, which begin at `place` of a flat master."""

    name: str
    parameter: nn.Parameter
    start: int
    stop: int
    place: int


@dataclass(frozen=True, slots=True)
class Master:
    """One tensor that the optimizer steps, and the parameters' pieces in it."""

    stepped: torch.Tensor
    fragments: list[Fragment]

    @property
    def values(self) -> torch.Tensor:
        """Its elements, flat."""
        return self.stepped.detach().view(-1)


_Place = tuple[torch.Tensor, Fragment]
"""Where elements of a parameter are written: a flat tensor, and the piece of it."""


@torch.no_grad()
def fill_engine(engine: DeepSpeedEngine, state: State, optimizer_state: OptimizerState | None) -> None:
    """Write the state into the engine's weights and masters, and the optimizer's state where one is given.

    Of a tensor that `optimizer_state` says nothing about the optimizer keeps nothing; where it shares a
    master with others, its elements are as old as their `step` says: 0.
    """
    masters = masters_of(engine)
    fill_buffers(engine, state)
    if isinstance(engine.optimizer, DeepSpeedZeroOptimizer_Stage3):
        _fill_partitioned(engine, masters, state, optimizer_state)
        return
    # Each rank has all the weights, and masters of its part of them: what is computed goes into both.
    kept: dict[str, list[_Place]] = {name: [] for name, _ in engine.module.named_parameters()}
    for master in masters:
        # Padding was never written, and would go into every norm.
        master.values.zero_()
        for fragment in master.fragments:
            kept[fragment.name].append((master.values, fragment))
    if isinstance(engine.optimizer, (*_GROUP_PARTITIONS, FP16_UnfusedOptimizer)):
        for name, parameter in engine.module.named_parameters():
            kept[name].append((parameter.detach().view(-1), Fragment(name, parameter, 0, parameter.numel(), 0)))
    with Meter("filling the engine", sum(math.prod(state[name].shape) for name in kept), "values") as meter:
        for name, places in kept.items():
            _fill(places, state[name], meter.advance)
        if optimizer_state is not None:
            for number, master in enumerate(masters):
                meter.note = f"with the optimizer's state, {number + 1} of {len(masters)} groups"
                _fill_optimizer(engine, master, optimizer_state)


def fill_buffers(engine: DeepSpeedEngine, state: State) -> None:
    """Write buffers that files hold, which each rank has whole: in float32, as their class keeps them beside bf16 weights."""
    for name in [name for name, _ in engine.module.named_buffers() if name in state]:
        module, _, leaf = name.rpartition(".")
        # A copy: training moves a selection bias in place, and the source is read again to be measured.
        values = state[name].rows(0, state[name].shape[0]).to(engine.device, torch.float32, copy=True)
        setattr(engine.module.get_submodule(module), leaf, values)


def _fill_partitioned(
    engine: DeepSpeedEngine, masters: list[Master], state: State, optimizer_state: OptimizerState | None
) -> None:
    """Fill an engine under ZeRO-3: no rank has more than its pieces, and masters come from a disk one after the other."""
    size = sum(fragment.stop - fragment.start for master in masters for fragment in master.fragments)
    with Meter("filling the engine", size, "values") as meter:
        for number, master in enumerate(masters):
            with _in_memory(engine, number):
                # Padding was never written, and would go into every norm.
                master.values.zero_()
                for fragment in master.fragments:
                    _fill([(master.values, fragment)], state[fragment.name], meter.advance)
                if optimizer_state is not None:
                    meter.note = f"with the optimizer's state, {number + 1} of {len(masters)} groups"
                    _fill_optimizer(engine, master, optimizer_state)
                _fill_partitions(master)
    # hpZ keeps copies within a node, cut from what was there before.
    engine.optimizer.invalidate_secondary_tensor()


def masters_of(engine: DeepSpeedEngine) -> list[Master]:
    """Return this rank's masters, by DeepSpeed's own bookkeeping of the fragments in them; those on a disk are empty."""
    wrapper, named = engine.optimizer, list(engine.module.named_parameters())
    if isinstance(wrapper, DeepSpeedZeroOptimizer_Stage3):
        masters = [Master(stepped, []) for stepped in wrapper.fp32_partitioned_groups_flat]
        for name, parameter in named:
            number, place, size = wrapper.grad_position[wrapper.get_param_id(parameter)]
            start = min(engine.global_rank * size, parameter.ds_numel)
            stop = min(start + size, parameter.ds_numel)
            masters[number].fragments.append(Fragment(name, parameter, start, stop, place))
        return masters
    if isinstance(wrapper, tuple(_GROUP_PARTITIONS)):
        masters = [Master(stepped, []) for stepped in getattr(wrapper, _GROUP_PARTITIONS[type(wrapper)])]
        for name, parameter in named:
            mapping = parameter._hp_mapping
            if mapping is not None:
                start, place = mapping.lp_fragment_address.start, mapping.hp_fragment_address.start
                fragment = Fragment(name, parameter, start, start + mapping.lp_fragment_address.numel, place)
                masters[mapping.param_group_index].fragments.append(fragment)
        return masters
    stepped = {parameter: parameter for _, parameter in named}
    if isinstance(wrapper, FP16_UnfusedOptimizer):
        groups = zip(wrapper.fp16_groups, wrapper.fp32_groups, strict=True)
        stepped = {low: master for lows, masters in groups for low, master in zip(lows, masters, strict=True)}
    else:
        # Stage 0 in fp32 keeps no masters beside the weights.
        assert isinstance(wrapper, torch.optim.Optimizer), f"the masters of {type(wrapper).__name__} are not known"
    return [Master(stepped[parameter], [Fragment(name, parameter, 0, parameter.numel(), 0)]) for name, parameter in named]


@contextmanager
def _in_memory(engine: DeepSpeedEngine, number: int) -> Iterator[None]:
    """Hold a master, and what the optimizer keeps of it, in memory where they lie on a disk; then write them back."""
    wrapper = engine.optimizer
    swaps = isinstance(wrapper, DeepSpeedZeroOptimizer_Stage3) and wrapper._swappable_optimizer_subgroup(number)
    if swaps:
        wrapper._optimizer_states_and_gradient_swap_in(number)
    yield
    if swaps:
        wrapper._optimizer_states_and_gradient_swap_out(number)


def _fill_partitions(master: Master) -> None:
    """Write this rank's pieces of the weights that the model computes with."""
    for fragment in master.fragments:
        piece = fragment.parameter.ds_tensor
        for begin in range(0, piece.numel(), CHUNK_ELEMENTS):
            end = min(begin + CHUNK_ELEMENTS, piece.numel())
            piece[begin:end] = master.values[fragment.place + begin : fragment.place + end].to(piece.device)


def _fill(places: Sequence[_Place], tensor: Rows, advance: Advance = lambda _: None) -> None:
    """Write each element of a tensor wherever it belongs; what several places share is computed once."""
    if not places:
        return
    first, behind = min(fragment.start for _, fragment in places), max(fragment.stop for _, fragment in places)
    for start in range(first, behind, CHUNK_ELEMENTS):
        stop = min(start + CHUNK_ELEMENTS, behind)
        chunk = flat(tensor, start, stop)
        for values, fragment in places:
            begin, end = max(start, fragment.start), min(stop, fragment.stop)
            if begin < end:
                place = fragment.place - fragment.start
                values[place + begin : place + end] = chunk[begin - start : end - start].to(values.device, values.dtype)
        advance(stop - start)


def _fill_optimizer(engine: DeepSpeedEngine, master: Master, state: OptimizerState) -> None:
    """Put into the optimizer what it keeps of one master.

    What form that takes depends on the values alone, not on how they came: a run that goes on computes
    with the same bits as one that was not interrupted.
    """
    held: list[tuple[Fragment, Mapping[str, Rows | float]]] = [
        (fragment, state.get(fragment.name, {})) for fragment in master.fragments if fragment.start < fragment.stop
    ]
    kept = getattr(engine.optimizer, "optimizer", engine.optimizer).state
    for key in dict.fromkeys(key for _, said in held for key in said):
        values = [(fragment, said.get(key, default_value(key))) for fragment, said in held]
        alike = _alike(values) if key in SCALARS else None
        if alike is None:
            whole = torch.full_like(master.values, default_value(key))
            for fragment, value in values:
                if isinstance(value, float):
                    whole[fragment.place : fragment.place + fragment.stop - fragment.start] = value
                else:
                    _fill([(whole, fragment)], value)
            kept[master.stepped][key] = whole.view(master.stepped.shape)
        elif key == "step" or alike != default_value(key):
            # Where the tensor is: fused kernels count steps there.
            kept[master.stepped][key] = torch.tensor(alike, device=master.stepped.device)


def _alike(values: list[tuple[Fragment, Rows | float]]) -> float | None:
    """Return the one value that all elements have, or None."""
    found = {value for _, value in values if isinstance(value, float)}
    for fragment, value in values:
        if isinstance(value, float):
            continue
        for start in range(fragment.start, fragment.stop, CHUNK_ELEMENTS):
            chunk = flat(value, start, min(start + CHUNK_ELEMENTS, fragment.stop))
            found |= {chunk.min().item(), chunk.max().item()}
            if len(found) > 1:
                return None
    return found.pop() if len(found) == 1 else None
