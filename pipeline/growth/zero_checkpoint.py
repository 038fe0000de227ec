"""DeepSpeed checkpoints, of any world size and any ZeRO stage: read through memory maps, without DeepSpeed.

A parameter lies in flat pieces, one a rank. Weights are the fp32 masters; what the optimizer keeps
of each parameter comes beside them. Parameters that were not trained have neither, and lie in the model's files in the
dtype that they were used in. A `config.json` names the model: in the tag directory, or wherever another tool has it.

No code in a file is run, whoever wrote it: whatever is no tensor, plain value or known stand-in is refused. That a
checkpoint is whole and one of ours is what its digests are for.
"""

import json
import math
import pickle
import re
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from data_prep.errors import UserError
from pipeline.families import Family, family_of, read_config, sizes_of
from pipeline.growth.foreign_weights import forget_stale
from pipeline.growth.integrity import FILES, MISSING, damage, irregular
from pipeline.growth.state import Rows, Source, unsaid
from pipeline.growth.surroundings import config_of

PROGRESS = "progress.json"
"""The file that says where a checkpoint's run stands."""

_MODEL_STATES = "mp_rank_00_model_states.pt"
_RANK_MODEL_STATES = "zero_pp_rank_{rank}_mp_rank_00_model_states.pt"
_RANK_OPTIMIZER_STATES = "zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
_BF16 = "bf16_"
_PREFIXES = ("", _BF16)


class _Fields:
    """Stands for an object of DeepSpeed's: takes its fields, and runs none of its code."""


class _Ignored:
    """Stands for an object of which nothing is read, whatever it is made of."""

    def __init__(self, *parts: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


_STAND_INS = [
    (int, "deepspeed.runtime.zero.config.ZeroStageEnum"),
    (_Fields, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (_Fields, "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler"),
    (_Fields, "deepspeed.utils.tensor_fragment.fragment_address"),
    # What training scripts save beside: their arguments, the state of random numbers.
    *(
        (_Ignored, name)
        for name in (
            "argparse.Namespace",
            "pathlib.PosixPath",
            "numpy.ndarray",
            "numpy.dtype",
            *(f"numpy.{core}.multiarray.{maker}" for core in ("core", "_core") for maker in ("_reconstruct", "scalar")),
        )
    ),
]
"""All that a checkpoint's files hold besides tensors and plain values."""

_OTHER_LAYOUTS = {
    re.compile(r".*mp_rank_(?!00)\d+_(model|optim)_states\.pt"): "tensor-parallel ranks",
    re.compile(r"layer_\d+-model_\d+-model_states\.pt"): "pipeline-parallel ranks",
    re.compile(r".*exp(ert|p_rank)_\d+_.*states\.pt"): "experts",
}
"""Names of files -> what writes them."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Elements [start, stop) of a flattened tensor; a float stands for all of them."""

    start: int
    stop: int
    values: torch.Tensor | float


class PartitionedTensor:
    """A tensor in flat pieces, one after the other; reading rows touches only the pieces they lie in."""

    def __init__(self, shape: tuple[int, ...], pieces: list[Piece]) -> None:
        self.shape = shape
        self._width = math.prod(shape[1:])
        self._pieces = pieces
        self._starts = [piece.start for piece in pieces]

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop) as float32 or wider."""
        first, last = start * self._width, stop * self._width
        values = torch.empty(last - first, dtype=torch.float32)
        number = bisect_right(self._starts, first) - 1
        while number < len(self._pieces) and self._pieces[number].start < last:
            piece = self._pieces[number]
            begin, end = max(first, piece.start), min(last, piece.stop)
            part = piece.values
            if isinstance(part, torch.Tensor):
                part = part[begin - piece.start : end - piece.start]
            values[begin - first : end - first] = part
            number += 1
        return values.reshape(stop - start, *self.shape[1:])


def missing_files(names: Collection[str], stage: int, ranks: int) -> list[str]:
    """Return which of the files that DeepSpeed 0.19.8 writes at a ZeRO stage are not among `names`."""
    model = [_RANK_MODEL_STATES.format(rank=rank) for rank in range(ranks)] if stage == 3 else [_MODEL_STATES]
    optimizer = [_RANK_OPTIMIZER_STATES.format(rank=rank) for rank in range(ranks)] if stage > 0 else []
    # Some of its optimizers write a prefix and others do not.
    found = {name.removeprefix(_BF16) for name in names}
    return [name for name in (*model, *optimizer) if name not in found]


def is_zero_checkpoint(directory: Path) -> bool:
    """Whether this is a checkpoint's tag directory."""
    return any(directory.glob("*_states.pt"))


def open_zero_checkpoint(
    directory: Path, config: Path | None = None, *, foreign: bool = False, part: int = 0, parts: int = 1
) -> Source:
    """Return the model and the optimizer's state in a tag directory of DeepSpeed's, memory-mapped.

    `config` is the model's config.json or a directory with it, where it is not to be looked for (`config_of`). All
    checkpoints that are written here have their own, and the list of what their files should be (`integrity.damage`,
    which `part` and `parts` are for); one that has its own and no such list is opened where it is `foreign` by the
    caller's word. Raises UserError otherwise, as `read_zero_checkpoint` does, and where its norms are not stock ones yet.
    """
    compared = _compare_digests(directory, foreign, part, parts)
    _check_norms(directory / PROGRESS)
    source = read_zero_checkpoint(directory, config_of(directory, config))
    if compared:
        return source
    remark = f"the DeepSpeed checkpoint {directory} comes without digests to compare its files with; read with {source.beside}"
    return replace(source, remarks=(*source.remarks, f"{remark}/config.json"))


def read_zero_checkpoint(directory: Path, config: Path | None = None) -> Source:
    """Return the same whatever norms the weights are meant for, and compare no digests.

    Raises UserError naming the file where one is missing, damaged, of another kind or holds code, and
    the tensor where one is missing or misshapen.
    """
    path = config or directory / "config.json"
    config = read_config(path)
    family = family_of(config, str(path))
    shapes = {name: sizes_of(config).shape(spec) for name, (spec, _) in family.specs(sizes_of(config)).items()}
    held = _read(directory)
    _check(directory, path, family, shapes, held)
    state: dict[str, Rows] = {name: PartitionedTensor(shapes[name], held[name].weights) for name in shapes}
    optimizer = {name: _joined(shapes[name], held[name]) for name in shapes}
    kept = {name: kept for name, kept in optimizer.items() if kept}
    remarks = tuple(forget_stale(config))
    return Source(directory, config, family, state, kept, remarks, described_in=path.parent)


def _compare_digests(directory: Path, foreign: bool, part: int, parts: int) -> bool:
    """Return whether there are digests of the files; raises UserError where they differ, or where there should be some."""
    if directory.is_dir() and irregular(directory / FILES) == MISSING:
        if (directory / "config.json").exists() and not foreign:
            raise UserError(
                f"{directory}: has no {FILES}, which every checkpoint written here has; if you know where it comes from, say "
                "source.foreign=true (launch/grow.py: --foreign)"
            )
        return False
    fault = damage(directory, part, parts)
    if fault is not None:
        raise UserError(f"{fault}; the checkpoint is damaged: copy it again, or name another one")
    return True


def _check_norms(path: Path) -> None:
    """Refuse weights that compute something else under the norms of Hugging Face's model."""
    fault = irregular(path)
    if fault == MISSING:
        return
    if fault is not None:
        raise UserError(f"{path}: {fault}; copy the checkpoint again")
    try:
        progress = json.loads(path.read_text(encoding="utf-8"))
        until, step = progress.get("norms_weighted_until"), progress.get("step")
    except (ValueError, AttributeError):
        raise UserError(f"{path}: not a checkpoint's own file; copy the checkpoint again") from None
    if until is not None:
        raise UserError(
            f"{path}: the model's norms are weighted until step {until} of its run, and this is step {step}; take a "
            "checkpoint from then on"
        )


class _Held:
    """What has been found of one parameter, rank after rank."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self.weights: list[Piece] = []
        self.kept: dict[str, list[Piece]] = {}

    @property
    def end(self) -> int:
        return self.weights[-1].stop if self.weights else 0

    def add(self, weights: torch.Tensor, begin: int, count: int, state: Mapping[str, torch.Tensor | float]) -> None:
        """Take elements [begin, begin + count) of a flat master, and of the state that the optimizer keeps of it."""
        start, stop = self.end, self.end + count
        if count == 0:
            return
        if len(weights) < begin + count:
            raise IndexError(f"a master of {len(weights)} elements where {begin + count} are expected")
        self.weights.append(Piece(start, stop, weights[begin : begin + count]))
        for key, value in state.items():
            # Steps are tensors to torch's AdamW, and whole numbers to DeepSpeed's own.
            whole = not isinstance(value, torch.Tensor) or value.dim() == 0
            values = float(value) if whole else value.flatten()[begin : begin + count]
            if isinstance(values, torch.Tensor) and len(values) != count:
                raise IndexError(f"{key} of {value.numel()} elements for a master of {len(weights)}")
            self.kept.setdefault(key, []).append(Piece(start, stop, values))


def _read(directory: Path) -> dict[str, _Held]:
    """Return what the files hold of each parameter, by name."""
    _check_layout(directory)
    path = directory / _MODEL_STATES
    if irregular(path) == MISSING:
        path = directory / _RANK_MODEL_STATES.format(rank=0)
    try:
        return _read_ranks(directory, path)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: not a checkpoint as DeepSpeed 0.19 writes them ({type(error).__name__}: {error})") from None


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


def _read_ranks(directory: Path, path: Path) -> dict[str, _Held]:
    """Return what each parameter's pieces hold, by name; `path` is the first rank's model file."""
    model = _load(path)
    if model["param_shapes"] is None:
        return _read_whole(path, model)
    shapes: list[Mapping[str, torch.Size]] = model["param_shapes"]
    held = {name: _Held(shape) for group in shapes for name, shape in group.items()}
    ranks, stage = int(model["dp_world_size"]), None
    for rank in range(ranks):
        file = _optimizer_file(directory, rank)
        try:
            saved = _load(file)["optimizer_state_dict"]
            # One of DeepSpeed's ZeRO-1 optimizers leaves its stage out.
            of_stage, partitions = saved.get("zero_stage", 1), saved["partition_count"]
            stage = of_stage if stage is None else stage
            if of_stage != stage or {ranks} != set(partitions if isinstance(partitions, list) else [partitions]):
                raise UserError(f"{file}: of another checkpoint than {path.name} ({ranks} ranks); copy the checkpoint again")
            if stage == 3:
                _take_stage_3(held, shapes, saved, ranks)
            else:
                _take_stage_1_or_2(file, held, saved)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"{file}: not an optimizer file as DeepSpeed 0.19 writes them ({reason})") from None
    return held | _read_untrained(directory, model, held, ranks, stage)


def _read_untrained(
    directory: Path, model: dict[str, Any], held: Mapping[str, _Held], ranks: int, stage: int
) -> dict[str, _Held]:
    """Return the parameters that no optimizer had: whole, or under ZeRO-3 in pieces as the trained ones."""
    if stage < 3:
        # ZeRO-1 does not list them: they are among all the module's tensors, beside buffers and the trained ones.
        among = model.get("frozen_param_fragments") or model["module"]
        left_out = {*held, *model["buffer_names"], *model["shared_params"]}
        found = {name: tensor for name, tensor in among.items() if name not in left_out}
        untrained = {name: _Held(tensor.shape) for name, tensor in found.items()}
        for name, tensor in found.items():
            untrained[name].add(tensor.flatten(), 0, tensor.numel(), {})
        return untrained
    # Listed are those without a gradient when the checkpoint was written: an optimizer may have had them before.
    listed: Mapping[str, torch.Size] = model.get("frozen_param_shapes") or {}
    shapes = {name: shape for name, shape in listed.items() if name not in held}
    untrained = {name: _Held(shape) for name, shape in shapes.items()}
    for rank in range(ranks) if shapes else ():
        path = directory / _RANK_MODEL_STATES.format(rank=rank)
        pieces = _load(path)["frozen_param_fragments"]
        for name, shape in shapes.items():
            left = math.prod(shape) - untrained[name].end
            untrained[name].add(pieces[name].flatten(), 0, min(-(-math.prod(shape) // ranks), left), {})
    return untrained


def _take_stage_3(held: dict[str, _Held], shapes: list[Mapping[str, torch.Size]], saved: dict[str, Any], ranks: int) -> None:
    """Take one rank's pieces, each ceil(numel / ranks) long and the last ones padded, out of its flat sub-groups."""
    masters: list[torch.Tensor] = saved["fp32_flat_groups"]
    states: dict[int, dict[str, torch.Tensor]] = saved["optimizer_state_dict"]["state"]
    number = begin = 0
    for group in shapes:
        for name, shape in group.items():
            if begin == len(masters[number]):
                number, begin = number + 1, 0
            share = -(-math.prod(shape) // ranks)
            count = min(share, math.prod(shape) - held[name].end)
            held[name].add(masters[number].detach(), begin, count, states.get(number, {}))
            begin += share


def _take_stage_1_or_2(file: Path, held: dict[str, _Held], saved: dict[str, Any]) -> None:
    """Take one rank's fragments, contiguous runs of each group laid end to end over the ranks."""
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


def _read_whole(path: Path, model: dict[str, Any]) -> dict[str, _Held]:
    """Stage 0: whole parameters, in the order of the optimizer's groups, which say their names."""
    held: dict[str, _Held] = {}
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
                raise UserError(f"{path}: tensor {name!r} is {weights.dtype} without a float32 master; ZeRO stage 1 keeps one")
            held[name] = _Held(weights.shape)
            held[name].add(weights.detach().flatten(), 0, weights.numel(), optimizer["state"].get(place, {}))
    return held


def _joined(shape: tuple[int, ...], held: _Held) -> dict[str, Rows | float]:
    """One parameter's optimizer state: a float where it is the same throughout.

    A rank whose master was never stepped may have kept nothing.
    """
    joined: dict[str, Rows | float] = {}
    for key, kept in held.kept.items():
        found = {piece.start: piece for piece in kept}
        pieces = [found.get(piece.start) or Piece(piece.start, piece.stop, unsaid(key)) for piece in held.weights]
        values = {piece.values for piece in pieces if isinstance(piece.values, float)}
        alike = len(values) == 1 and all(isinstance(piece.values, float) for piece in pieces)
        joined[key] = values.pop() if alike else PartitionedTensor(shape, pieces)
    return joined


def _check(
    directory: Path, config: Path, family: Family, shapes: Mapping[str, tuple[int, ...]], held: Mapping[str, _Held]
) -> None:
    for name, shape in shapes.items():
        if name not in held:
            raise UserError(f"{directory}: tensor {name!r} is missing, though {config} makes it part of the model")
        if held[name].shape != shape:
            raise UserError(f"{directory}: tensor {name!r} has shape {held[name].shape} where {config} makes it {shape}")
        if held[name].end != math.prod(shape):
            raise UserError(
                f"{directory}: tensor {name!r} has {held[name].end} elements over all ranks where its shape {shape} has "
                f"{math.prod(shape)}; copy the checkpoint again"
            )
    for name in held:
        if name not in shapes:
            raise UserError(f"{directory}: tensor {name!r} is unknown to family {family.name}")


def _optimizer_file(directory: Path, rank: int) -> Path:
    name = _RANK_OPTIMIZER_STATES.format(rank=rank)
    for prefix in _PREFIXES:
        if irregular(directory / (prefix + name)) != MISSING:
            return directory / (prefix + name)
    raise UserError(f"{directory / name}: no such file; copy the checkpoint again, with the files of every rank")


def _load(path: Path) -> dict[str, Any]:
    """Map one file; whatever is no tensor, plain value or known stand-in is refused before any of it runs."""
    fault = irregular(path)
    if fault is not None:
        raise UserError(f"{path}: {fault}; copy the checkpoint again, with the files of every rank")
    try:
        with torch.serialization.safe_globals(_STAND_INS):
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it names {found[1]}" if found else " ".join(str(error).split())[:160]
        raise UserError(f"{path}: holds more than tensors and plain values, and is not opened ({what})") from None
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        said = " ".join(str(error).split())[:160]
        raise UserError(f"{path}: damaged, or not a file of a checkpoint ({said}); copy it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a file of a DeepSpeed checkpoint; it holds {type(content).__name__}")
    return content
