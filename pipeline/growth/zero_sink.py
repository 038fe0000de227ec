"""The live sink: a state written into a DeepSpeed engine, each rank computing its own partitions.

One pass after `deepspeed.initialize`, a chunk at a time, each computed once: the fp32 masters, the low-precision weights
beside them, and what the optimizer keeps of each. Under ZeRO-3 no rank ever holds a whole tensor, and masters that
lie on a disk come into memory one after the other.
"""

from collections.abc import Mapping, Sequence

import torch
from deepspeed import DeepSpeedEngine

from pipeline.common.progress import Advance, Meter
from pipeline.deepspeed.masters import (
    Master,
    in_memory,
    masters_of,
    optimizer_of,
    partitions_masters,
    weights_of,
    weights_were_filled,
)
from pipeline.deepspeed.zero_layout import PartitionSlice
from pipeline.growth.added_steps import ADDED_STEPS_LEFT
from pipeline.growth.state import OptimizerState, Rows, State, default_value, flat
from pipeline.growth.streaming import CHUNK_ELEMENTS

SCALARS = ("step", "lr_factor", "eps_factor", ADDED_STEPS_LEFT)
"""What the optimizer may keep as one number for a whole master; all else has one per element."""

_Place = tuple[torch.Tensor, PartitionSlice]
"""Where elements of a parameter are written: a flat tensor, and which of them lie in it."""


@torch.no_grad()
def fill_engine(engine: DeepSpeedEngine, state: State, optimizer_state: OptimizerState | None) -> None:
    """Write the state into the engine's weights and masters, and the optimizer's state where one is given.

    Of a tensor that is not in `optimizer_state` the optimizer keeps nothing; where it shares a master with others, the
    `step` of its elements is 0.
    """
    masters, weights = masters_of(engine), weights_of(engine)
    fill_buffers(engine, state)
    if partitions_masters(engine):
        _fill_partitioned(engine, masters, weights, state, optimizer_state)
        return
    # A rank's weights are more than its masters: what is computed of a parameter goes into both.
    places: dict[str, list[_Place]] = {name: [] for name in weights}
    for master in masters:
        # Padding was never written, and would go into every norm.
        master.values.zero_()
        for held in master.slices:
            places[held.name].append((master.values, held))
    for name, weight in weights.items():
        places[name].append(weight)
    with Meter("filling the engine", sum(held.numel for _, held in weights.values()), "values") as meter:
        for name in places:
            _fill(places[name], state[name], meter.advance)
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
    engine: DeepSpeedEngine,
    masters: list[Master],
    weights: Mapping[str, _Place],
    state: State,
    optimizer_state: OptimizerState | None,
) -> None:
    """Fill an engine under ZeRO-3: no rank has more than its partitions, and masters come from a disk one after the other."""
    with Meter("filling the engine", sum(held.numel for _, held in weights.values()), "values") as meter:
        for number, master in enumerate(masters):
            with in_memory(engine, number):
                # Padding was never written, and would go into every norm.
                master.values.zero_()
                for held in master.slices:
                    _fill([(master.values, held)], state[held.name], meter.advance)
                if optimizer_state is not None:
                    meter.note = f"with the optimizer's state, {number + 1} of {len(masters)} groups"
                    _fill_optimizer(engine, master, optimizer_state)
                for held in master.slices:
                    weight, _ = weights[held.name]
                    for begin in range(0, weight.numel(), CHUNK_ELEMENTS):
                        end = min(begin + CHUNK_ELEMENTS, weight.numel())
                        weight[begin:end] = master.values[held.place + begin : held.place + end].to(weight.device)
    weights_were_filled(engine)


def _fill(places: Sequence[_Place], tensor: Rows, advance: Advance = lambda _: None) -> None:
    """Write each element of a tensor wherever it belongs; what several places share is computed once."""
    first, behind = min(held.start for _, held in places), max(held.stop for _, held in places)
    for start in range(first, behind, CHUNK_ELEMENTS):
        stop = min(start + CHUNK_ELEMENTS, behind)
        chunk = flat(tensor, start, stop)
        for values, held in places:
            begin, end = max(start, held.start), min(stop, held.stop)
            if begin < end:
                place = held.place - held.start
                values[place + begin : place + end] = chunk[begin - start : end - start].to(values.device, values.dtype)
        advance(stop - start)


def _fill_optimizer(engine: DeepSpeedEngine, master: Master, state: OptimizerState) -> None:
    """Put into the optimizer what it keeps of one master.

    What form that takes depends on the values alone, not on how they came: a run that goes on computes
    with the same bits as one that was not interrupted.
    """
    of_slices: list[tuple[PartitionSlice, Mapping[str, Rows | float]]] = [
        (held, state.get(held.name, {})) for held in master.slices if held.numel
    ]
    kept = optimizer_of(engine).state
    for key in dict.fromkeys(key for _, described in of_slices for key in described):
        values = [(held, described.get(key, default_value(key))) for held, described in of_slices]
        alike = _alike(values) if key in SCALARS else None
        if alike is None:
            whole = torch.full_like(master.values, default_value(key))
            for held, value in values:
                if isinstance(value, float):
                    whole[held.place : held.end] = value
                else:
                    _fill([(whole, held)], value)
            kept[master.stepped][key] = whole.view(master.stepped.shape)
        elif key == "step" or alike != default_value(key):
            # Where the tensor is: fused kernels count steps there.
            kept[master.stepped][key] = torch.tensor(alike, device=master.stepped.device)


def _alike(values: list[tuple[PartitionSlice, Rows | float]]) -> float | None:
    """Return the one value that all elements have, or None."""
    found = {value for _, value in values if isinstance(value, float)}
    for held, value in values:
        if isinstance(value, float):
            continue
        for start in range(held.start, held.stop, CHUNK_ELEMENTS):
            chunk = flat(value, start, min(start + CHUNK_ELEMENTS, held.stop))
            found |= {chunk.min().item(), chunk.max().item()}
            if len(found) > 1:
                return None
    return found.pop() if len(found) == 1 else None
