"""The files of a DeepSpeed checkpoint, of any ZeRO stage and number of ranks, read without DeepSpeed.

Weights are the fp32 masters; what the optimizer keeps of each parameter comes beside them. Parameters that were not trained
have neither, and lie in the model's files in the dtype that they were used in.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pipeline.common.errors import UserError
from pipeline.common.files import MISSING, irregular
from pipeline.deepspeed.zero_layout import partition_bounds, partition_size
from pipeline.growth.checkpoint_pickle import load
from pipeline.growth.partitioned import Parameter

_MODEL_STATES = "mp_rank_00_model_states.pt"
RANK_MODEL_STATES = "zero_pp_rank_{rank}_mp_rank_00_model_states.pt"
RANK_OPTIMIZER_STATES = "zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
BF16 = "bf16_"
"""What some of DeepSpeed's optimizers write in front of that."""

_OTHER_LAYOUTS = {
    re.compile(r".*mp_rank_(?!00)\d+_(model|optim)_states\.pt"): "tensor-parallel ranks",
    re.compile(r"layer_\d+-model_\d+-model_states\.pt"): "pipeline-parallel ranks",
    re.compile(r".*exp(ert|p_rank)_\d+_.*states\.pt"): "experts",
}
"""Names of files -> what writes them."""


def missing_files(names: Collection[str], stage: int, ranks: int) -> list[str]:
    """Return which of the files that DeepSpeed 0.19.8 writes at a ZeRO stage are not among `names`."""
    model = [RANK_MODEL_STATES.format(rank=rank) for rank in range(ranks)] if stage == 3 else [_MODEL_STATES]
    optimizer = [RANK_OPTIMIZER_STATES.format(rank=rank) for rank in range(ranks)] if stage > 0 else []
    # Some of its optimizers write a prefix and others do not.
    found = {name.removeprefix(BF16) for name in names}
    return [name for name in (*model, *optimizer) if name not in found]


def is_zero_checkpoint(directory: Path) -> bool:
    """Whether this is a checkpoint's tag directory."""
    return any(directory.glob("*_states.pt"))


def read_parameters(directory: Path) -> dict[str, Parameter]:
    """Return the parameters in a tag directory, by their names there, memory-mapped.

    Raises UserError naming the file where one is missing, damaged, of another layout or holds code, and the tensor where its
    partitions are not the whole of it.
    """
    _check_layout(directory)
    path = directory / _MODEL_STATES
    if irregular(path) == MISSING:
        path = directory / RANK_MODEL_STATES.format(rank=0)
    with _known_layout(path, "a checkpoint"):
        held = _read_ranks(directory, path)
    for name, parameter in held.items():
        if parameter.end != math.prod(parameter.shape):
            raise UserError(
                f"{directory}: tensor {name!r} has {parameter.end} elements over all ranks where its shape {parameter.shape} "
                f"has {math.prod(parameter.shape)}; copy the checkpoint again"
            )
    return held


@contextmanager
def _known_layout(path: Path, kind: str) -> Iterator[None]:
    """Turn what reading a file of another layout raises into a UserError that names it."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        reason = f"not {kind} of DeepSpeed 0.19 ({type(error).__name__}: {error})"
        raise UserError(f"{path}: {reason}; copy it again, or save it with that version") from None


def _check_layout(directory: Path) -> None:
    """Refuse the checkpoints of DeepSpeed's that are laid out otherwise, by what they are."""
    names = [path.name for path in directory.iterdir()]
    if "zero" in names:
        raise UserError(
            f"{directory}: a universal checkpoint, whose parameters lie in folders of their own; name the checkpoint that it "
            "was converted from"
        )
    for name in names:
        for pattern, kind in _OTHER_LAYOUTS.items():
            if pattern.fullmatch(name):
                raise UserError(
                    f"{directory / name}: of {kind}, which are not read; save the model with save_pretrained, and name that "
                    "directory"
                )


def _read_ranks(directory: Path, path: Path) -> dict[str, Parameter]:
    """Return what each parameter's partitions hold, by name; `path` is the first rank's model file."""
    model = load(path)
    if model["param_shapes"] is None:
        return _read_whole(path, model)
    shapes: list[Mapping[str, torch.Size]] = model["param_shapes"]
    held = {name: Parameter(shape) for group in shapes for name, shape in group.items()}
    ranks, stages = int(model["dp_world_size"]), set[int]()
    for rank in range(ranks):
        file = _optimizer_file(directory, rank)
        with _known_layout(file, "an optimizer file"):
            saved = load(file)["optimizer_state_dict"]
            # One of DeepSpeed's ZeRO-1 optimizers leaves its stage out.
            of_stage, partitions = saved.get("zero_stage", 1), saved["partition_count"]
            stages.add(of_stage)
            if len(stages) > 1 or {ranks} != set(partitions if isinstance(partitions, list) else [partitions]):
                raise UserError(f"{file}: of another checkpoint than {path.name} ({ranks} ranks); copy the checkpoint again")
            if of_stage == 3:
                _take_stage_3(held, shapes, saved, rank, ranks)
            else:
                _take_stage_1_or_2(file, held, saved)
    (stage,) = stages
    return held | _read_untrained(directory, model, held, ranks, stage) | _read_buffers(model)


def _read_buffers(model: dict[str, Any]) -> dict[str, Parameter]:
    """Return the buffers that a model's files hold, which every rank has whole."""
    return {name: Parameter.whole(model["module"][name]) for name in model["buffer_names"] if name in model["module"]}


def _read_untrained(
    directory: Path, model: dict[str, Any], held: Mapping[str, Parameter], ranks: int, stage: int
) -> dict[str, Parameter]:
    """Return the parameters that no optimizer had: whole, or under ZeRO-3 in partitions as the trained ones."""
    if stage < 3:
        # ZeRO-1 does not list them: they are among all the module's tensors, beside buffers and the trained ones.
        among = model.get("frozen_param_fragments") or model["module"]
        left_out = {*held, *model["buffer_names"], *model["shared_params"]}
        return {name: Parameter.whole(tensor) for name, tensor in among.items() if name not in left_out}
    # Listed are those without a gradient when the checkpoint was written: an optimizer may have had them before.
    listed: Mapping[str, torch.Size] = model.get("frozen_param_shapes") or {}
    shapes = {name: shape for name, shape in listed.items() if name not in held}
    untrained = {name: Parameter(shape) for name, shape in shapes.items()}
    for rank in range(ranks) if shapes else ():
        path = directory / RANK_MODEL_STATES.format(rank=rank)
        partitions = load(path)["frozen_param_fragments"]
        for name, shape in shapes.items():
            begin, end = partition_bounds(math.prod(shape), rank, ranks)
            untrained[name].add(partitions[name].flatten(), 0, end - begin, {})
    return untrained


def _take_stage_3(
    held: dict[str, Parameter], shapes: list[Mapping[str, torch.Size]], saved: dict[str, Any], rank: int, ranks: int
) -> None:
    """Take one rank's partitions out of its flat sub-groups, in which they lie end to end."""
    masters: list[torch.Tensor] = saved["fp32_flat_groups"]
    states: dict[int, dict[str, torch.Tensor]] = saved["optimizer_state_dict"]["state"]
    number = begin = 0
    for group in shapes:
        for name, shape in group.items():
            if begin == len(masters[number]):
                number, begin = number + 1, 0
            first, last = partition_bounds(math.prod(shape), rank, ranks)
            held[name].add(masters[number].detach(), begin, last - first, states.get(number, {}))
            begin += partition_size(math.prod(shape), ranks)


def _take_stage_1_or_2(file: Path, held: dict[str, Parameter], saved: dict[str, Any]) -> None:
    """Take one rank's fragments, which are contiguous in a group that is laid end to end over the ranks."""
    base = saved["base_optimizer_state"]
    if isinstance(base, list):
        raise UserError(
            f"{file}: of an elastic checkpoint, which is not read; save it without zero_optimization.elastic_checkpoint"
        )
    masters: list[torch.Tensor] = saved["single_partition_of_fp32_groups"]
    for number, (master, fragments) in enumerate(zip(masters, saved["param_slice_mappings"], strict=True)):
        (place,) = base["param_groups"][number]["params"]
        for name, fragment in fragments.items():
            held[name].add(master.detach(), fragment.start, fragment.numel, base["state"].get(place, {}))


def _read_whole(path: Path, model: dict[str, Any]) -> dict[str, Parameter]:
    """Stage 0: whole parameters, in the order of the optimizer's groups, which hold their names."""
    held: dict[str, Parameter] = {}
    saved = model["optimizer"]
    # In bf16 the masters lie beside the optimizer's own state, group by group as there.
    optimizer = saved.get("optimizer_state_dict", saved)
    for number, group in enumerate(optimizer["param_groups"]):
        if "names" not in group:
            raise UserError(
                f"{path}: of ZeRO stage 0, whose optimizer does not say which state is which parameter's; save it with ZeRO "
                "stage 1 to 3, or name a directory that save_pretrained has written"
            )
        masters = saved["fp32_groups"][number] if "fp32_groups" in saved else [model["module"][name] for name in group["names"]]
        for name, place, weights in zip(group["names"], group["params"], masters, strict=True):
            if weights.dtype != torch.float32:
                raise UserError(
                    f"{path}: tensor {name!r} is {weights.dtype}, without a float32 master; save it with ZeRO stage 1"
                )
            held[name] = Parameter.whole(weights, optimizer["state"].get(place, {}))
    return held | _read_buffers(model)


def _optimizer_file(directory: Path, rank: int) -> Path:
    name = RANK_OPTIMIZER_STATES.format(rank=rank)
    for prefix in ("", BF16):
        if irregular(directory / (prefix + name)) != MISSING:
            return directory / (prefix + name)
    raise UserError(f"{directory / name}: no such file; copy the checkpoint again, with the files of every rank")
