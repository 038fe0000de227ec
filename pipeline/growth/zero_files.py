"""ZeRO-3 checkpoint files for any number of ranks, written as a stream and without DeepSpeed.

`latest` names the checkpoint's folder. In it each rank has two files (DeepSpeed 0.19's names and keys):
`..model_states.pt` lists which parameter lies where, `..optim_states.pt` holds its partition of every fp32
master and of Adam's moments, end to end in flat groups. Beside them lies `config.json`, Hugging Face's,
and `files.json`, what each file should be.
"""

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PretrainedConfig

from pipeline.common.errors import UserError, one_line
from pipeline.common.files import write_json
from pipeline.deepspeed.release import WRITTEN_FOR
from pipeline.deepspeed.zero_layout import partition_bounds, partition_size
from pipeline.families import family_of, graph_of, sizes_of
from pipeline.families.graph import Model
from pipeline.growth import streaming
from pipeline.growth.deepspeed_files import BF16, RANK_MODEL_STATES, RANK_OPTIMIZER_STATES
from pipeline.growth.fused_parameters import optimizer_of_parameters, parameters_of
from pipeline.growth.huggingface_sink import Progress, write_error
from pipeline.growth.integrity import seal
from pipeline.growth.state import OptimizerState, Rows, State, flat
from pipeline.growth.streaming import raw_bytes, stored_as

TAG = "step-00000000"

_WRITTEN_BY = {"ds_config": {"zero_optimization": {"stage": 3}}, "ds_version": WRITTEN_FOR}


@dataclass(frozen=True, slots=True)
class _Group:
    """Parameters whose partitions lie end to end in one flat tensor, and what an optimizer keeps once for all of them."""

    names: list[str]
    scalars: dict[str, float]
    tensors: list[str]
    """Keys of what it keeps for each element."""


def write_zero3(
    directory: Path,
    config: PretrainedConfig,
    state: State,
    world_size: int,
    *,
    dtype: torch.dtype = torch.float32,
    optimizer: OptimizerState | None = None,
    beside: Callable[[Path], None] = lambda _: None,
    record: Mapping[str, Any] | None = None,
    progress: Progress = lambda _: None,
) -> None:
    """Write a checkpoint of `world_size` ranks into `directory`, which exists and is the caller's to discard.

    To be read by row range (`open_source`) or by DeepSpeed's zero_to_fp32; a running engine has groups of
    its own and takes such a checkpoint as a source of growth. Masters are float32; `dtype` is the engine's, by
    which DeepSpeed names the files, and which config.json names. `beside` writes what goes beside the weights, a tokenizer;
    progress.json takes up `record`. Raises UserError where the disk is full or a value is beyond
    float32.
    """
    tag = directory / TAG
    config = copy.deepcopy(config)
    config.dtype = dtype
    graph = graph_of(config)
    buffers = [name for name, tensor in graph.tensors().items() if tensor.buffer]
    held = {name: state[name].rows(0, state[name].shape[0]).float() for name in buffers}
    state, kept = _of_parameters(graph, state, optimizer)
    groups = _groups(state, kept)
    try:
        tag.mkdir()
        for rank in range(world_size):
            _save(_model_states(config, state, held, groups, world_size), tag / RANK_MODEL_STATES.format(rank=rank))
            path = tag / ((BF16 if dtype is torch.bfloat16 else "") + RANK_OPTIMIZER_STATES.format(rank=rank))
            _write_optim_states(path, state, kept, groups, rank, world_size, progress)
        config.save_pretrained(tag)
        beside(tag)
        write_json(tag / "progress.json", {"model": "grown", "step": 0, "world_size": world_size, **(record or {})})
        seal(tag)
        (directory / "latest").write_text(TAG + "\n", encoding="utf-8")
    except OSError as error:
        raise write_error(directory, error) from None


def bytes_of_rank(graph: Model, state: State, world_size: int, optimizer: OptimizerState | None) -> int:
    """Return the bytes of one rank's fp32 masters and of what an optimizer keeps for each of their elements."""
    size = 0
    state, kept = _of_parameters(graph, state, optimizer)
    for name, tensor in state.items():
        copies = 1 + sum(not isinstance(value, int | float) for value in kept.get(name, {}).values())
        size += copies * partition_size(math.prod(tensor.shape), world_size) * torch.float32.itemsize
    return size


def _of_parameters(graph: Model, state: State, optimizer: OptimizerState | None) -> tuple[State, OptimizerState]:
    """Return a state of stored tensors, and an optimizer's or none, as those of the class's parameters, without buffers."""
    buffers = {name for name, tensor in graph.tensors().items() if tensor.buffer}
    parameters = {name: tensor for name, tensor in parameters_of(graph, state).items() if name not in buffers}
    return parameters, optimizer_of_parameters(graph, optimizer or {})


def _save(content: dict[str, Any], path: Path) -> None:
    try:
        torch.save(content, path)
    except RuntimeError as error:
        # torch's own writer: what it writes here is plain, so only the disk can fail, and it does not give the reason.
        raise UserError(
            f"{path}: could not be written ({one_line(error)}); free disk space or name another directory"
        ) from None


def _groups(state: State, optimizer: OptimizerState) -> list[_Group]:
    """Parameters that have equal scalars (Adam: the step) share a group, as they must in a flat group of DeepSpeed's."""
    groups: dict[tuple[object, ...], _Group] = {}
    for name in state:
        kept = optimizer.get(name, {})
        scalars = {key: value for key, value in kept.items() if isinstance(value, int | float)}
        tensors = [key for key in kept if key not in scalars]
        groups.setdefault((*sorted(scalars.items()), *sorted(tensors)), _Group([], scalars, tensors)).names.append(name)
    return list(groups.values())


def _model_states(
    config: PretrainedConfig, state: State, buffers: dict[str, torch.Tensor], groups: list[_Group], world_size: int
) -> dict[str, Any]:
    family, tied = family_of(config), sizes_of(config).tied
    return {
        "module": buffers,
        "buffer_names": list(buffers),
        "optimizer": None,
        "param_shapes": [OrderedDict((name, torch.Size(state[name].shape)) for name in group.names) for group in groups],
        "frozen_param_shapes": None,
        "frozen_param_fragments": None,
        "shared_params": dict(family.head_alias) if tied else {},
        "lr_scheduler": None,
        "data_sampler": None,
        "random_ltd": None,
        "sparse_tensor_module_names": [],
        "skipped_steps": 0,
        "global_steps": 0,
        "global_samples": 0,
        "dp_world_size": world_size,
        "mp_world_size": 1,
        **_WRITTEN_BY,
    }


def _write_optim_states(
    path: Path,
    state: State,
    optimizer: OptimizerState,
    groups: list[_Group],
    rank: int,
    world_size: int,
    progress: Progress,
) -> None:
    """Write the file without the values of its tensors, then each tensor in its place."""

    def empty(group: _Group) -> torch.Tensor:
        return torch.empty(sum(partition_size(math.prod(state[name].shape), world_size) for name in group.names))

    with FakeTensorMode() as fake:
        moments = {
            number: {key: torch.empty(()) for key in group.scalars} | {key: empty(group) for key in group.tensors}
            for number, group in enumerate(groups)
            if group.scalars or group.tensors
        }
        saved = {
            "zero_stage": 3,
            "loss_scaler": None,
            "dynamic_loss_scale": False,
            "overflow": False,
            "partition_count": world_size,
            "optimizer_state_dict": {"state": moments, "param_groups": [{"params": list(range(len(groups)))}]},
            "fp32_flat_groups": [empty(group) for group in groups],
        }
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        _save({"optimizer_state_dict": saved, **_WRITTEN_BY}, path)
    with fake:
        placed = torch.load(path, weights_only=True)["optimizer_state_dict"]
    with open(path, "r+b") as file:
        for number, group in enumerate(groups):
            flat_group = placed["fp32_flat_groups"][number]
            _fill(file, flat_group, {name: state[name] for name in group.names}, rank, world_size, progress)
            kept = placed["optimizer_state_dict"]["state"].get(number, {})
            for key in group.tensors:
                values = {name: optimizer[name][key] for name in group.names}
                tensors = {name: value for name, value in values.items() if not isinstance(value, float)}
                _fill(file, kept[key], tensors, rank, world_size, progress)
            for key, value in group.scalars.items():
                file.seek(_place(kept[key]))
                file.write(raw_bytes(torch.tensor([value], dtype=torch.float32)))


def _fill(
    file: BinaryIO, place: torch.Tensor, tensors: dict[str, Rows], rank: int, world_size: int, progress: Progress
) -> None:
    """Write this rank's partition of each tensor, flattened and padded with 0, one behind the other."""
    file.seek(_place(place))
    for name, tensor in tensors.items():
        numel = math.prod(tensor.shape)
        begin, end = partition_bounds(numel, rank, world_size)
        for start in range(begin, end, streaming.CHUNK_ELEMENTS):
            values = flat(tensor, start, min(start + streaming.CHUNK_ELEMENTS, end))
            progress(file.write(raw_bytes(stored_as(values, torch.float32, name))))
        progress(file.write(raw_bytes(torch.zeros(partition_size(numel, world_size) - (end - begin)))))


def _place(tensor: torch.Tensor) -> int:
    offset = tensor.untyped_storage()._checkpoint_offset
    if offset is None:
        raise RuntimeError("torch gives no offset of a tensor whose values were left out")
    return offset
