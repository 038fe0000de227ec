"""Growth from directory to directory: no GPU, no training, memory bounded by a few chunks of rows."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm
from transformers import PretrainedConfig

from data_prep.errors import UserError
from data_prep.files import whole_directory, write_json
from pipeline.families import check_growth, target_config
from pipeline.growth.certificate import certify
from pipeline.growth.description import describe
from pipeline.growth.exactness import predict, verdict
from pipeline.growth.huggingface import read_config
from pipeline.growth.huggingface_sink import no_room, write_huggingface
from pipeline.growth.inspection import inspect
from pipeline.growth.plan import plan_growth
from pipeline.growth.probe import compare, elements
from pipeline.growth.sources import open_source
from pipeline.growth.state import OptimizerState, Rows, State
from pipeline.growth.tokenizer import tokenizer_directory
from pipeline.growth.zero_files import bytes_of_rank, write_zero3
from pipeline.recipe import GrowthConfig, TargetConfig

CERTIFICATE = "certificate.json"

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}

_BESIDE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)
"""Files of a model's directory that hold for the grown model too."""

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Request:
    """One growth from directory to directory."""

    source: Path
    target: TargetConfig | Path
    """The sizes that differ, or a Hugging Face config.json that has the target's sizes."""
    growth: GrowthConfig
    seed: int
    format: Literal["hf", "zero3"]
    dtype: str | None
    """Of the weights written; ZeRO-3: of the engine, whose masters are float32 in any case. The source's where None."""
    world_size: int
    out: Path


class OfflineGrowth:
    """A request whose source is open and whose plan is made; nothing is computed or written yet."""

    def __init__(self, request: Request) -> None:
        """Raises UserError where something is wrong with the request that can be known without reading the weights."""
        self._request = request
        _check_absent(request.out)
        self._source = source = open_source(request.source)
        self._target = _target(request.target, source.config)
        self._plan = plan_growth(source.config, self._target, request.growth, request.seed)
        self._check_options()
        self._grown: State = self._plan.grow(source.state)
        self._optimizer: OptimizerState | None = None
        if request.growth.optimizer_state == "grow":
            self._optimizer = self._plan.grow_optimizer(source.optimizer)
        stored = source.config.dtype if request.dtype is None else DTYPES[request.dtype]
        self._dtype: torch.dtype = stored or torch.float32
        if request.format == "zero3" and self._dtype is torch.float64:
            raise UserError("dtype: float64 is nothing that DeepSpeed trains in; name float32, bfloat16 or float16")

    def _check_options(self) -> None:
        growth, format = self._plan.growth, self._request.format
        if growth.norm_statistics == "weighted":
            chosen = "auto comes to norm statistics that are weighted" if self._plan.choices else "weighted statistics are"
            raise UserError(
                f"growth.norm_statistics: {chosen} in training and not in any file; use launch/pretrain.py, name a width "
                "operator, or choose a hidden_size that is a multiple of the source's"
            )
        if growth.optimizer_state == "grow" and format == "hf":
            raise UserError(
                "growth.optimizer_state: a Hugging Face directory holds none to grow into; name zero3 as the format, or fresh"
            )

    def execute(self) -> dict[str, Any]:
        """Grow, and return the certificate, which lies beside the weights.

        Raises UserError where the source holds NaN or infinity, or the disk is full; the directory then
        does not exist.
        """
        request = self._request
        self._check_room()
        digest = inspect(self._source.state, str(request.source))
        measured = compare(self._source, self._plan, self._target)
        certificate = certify(self._plan, str(request.source), digest, measured) | {
            "format": request.format,
            "dtype": str(self._dtype).removeprefix("torch."),
            "world_size": request.world_size if request.format == "zero3" else None,
        }
        try:
            with whole_directory(request.out) as aside:
                self._write(aside)
                write_json(aside / CERTIFICATE, certificate)
                # Whatever has come there meanwhile is not ours to replace.
                _check_absent(request.out)
        except OSError as error:
            raise no_room(request.out, error) from None
        return certificate

    def _write(self, directory: Path) -> None:
        with tqdm(total=self._bytes_written, unit="B", unit_scale=True, desc="writing", disable=None) as bar:
            if self._request.format == "hf":
                write_huggingface(directory, self._target, self._grown, self._dtype, progress=bar.update)
            else:
                write_zero3(
                    directory,
                    self._target,
                    self._grown,
                    self._request.world_size,
                    optimizer=self._optimizer,
                    bf16=self._dtype is torch.bfloat16,
                    progress=bar.update,
                )
        beside = tokenizer_directory(self._request.source)
        for name in _BESIDE:
            if (beside / name).is_file():
                shutil.copyfile(beside / name, directory / name)

    @property
    def _bytes_written(self) -> int:
        if self._request.format == "hf":
            return elements(self._grown) * self._dtype.itemsize
        return self._request.world_size * bytes_of_rank(self._grown, self._request.world_size, self._optimizer)

    def _check_room(self) -> None:
        place = next(parent for parent in self._request.out.absolute().parents if parent.exists())
        free = shutil.disk_usage(place).free
        if free < self._bytes_written:
            raise UserError(
                f"{self._request.out}: needs {self._bytes_written / _GIB:.1f} GiB and {free / _GIB:.1f} GiB are free; make "
                "room or name another directory"
            )

    def listing(self) -> str:
        """Return what would be done, for a person: every target tensor, sizes, memory, what will be exact."""
        source, request = self._source, self._request
        lines = [f"{name}  {list(tensor.shape)}  {describe(self._plan, name)}" for name, tensor in self._grown.items()]
        stored = sum(math.prod(tensor.shape) * _stored(tensor).itemsize for tensor in source.state.values())
        lines += [
            "",
            f"read     {stored / _GIB:.3f} GiB from {request.source} ({elements(source.state):,} parameters)",
            f"written  {self._bytes_written / _GIB:.3f} GiB to {request.out} ({elements(self._grown):,} parameters)",
        ]
        if request.format == "zero3":
            # fp32 master, two moments, and the weight in the engine's dtype.
            needed = elements(self._grown) * (4 + 8 + self._dtype.itemsize) / request.world_size
            lines.append(
                f"memory   {needed / _GIB:.3f} GiB on each of {request.world_size} ranks under ZeRO-3: master, moments and "
                f"{str(self._dtype).removeprefix('torch.')} weights"
            )
        return "\n".join([*lines, "", self.promise()])

    def promise(self) -> str:
        """Return what will be exact, and what will not and why."""
        departures = predict(self._plan)
        lines = [f"function: {verdict(departures)}", *(f"  {departure.cause}" for departure in departures)]
        return "\n".join([*self._plan.choices, *lines])


def _check_absent(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is there and not empty; name a new directory, or remove it")


def _target(target: TargetConfig | Path, source: PretrainedConfig) -> PretrainedConfig:
    if isinstance(target, TargetConfig):
        return target_config(source, target)
    config = read_config(target)
    check_growth(source, config, f"{target}: ")
    return config


def _stored(tensor: Rows) -> torch.dtype:
    return getattr(tensor, "stored", torch.float32)


def table(certificate: dict[str, Any], out: Path) -> str:
    """Return a certificate as a few lines for a person."""
    measured = certificate["measured"]
    sizes = [
        f"{certificate[side]['num_hidden_layers']} layers x {certificate[side]['hidden_size']} "
        f"({certificate[side]['num_attention_heads']} heads)"
        for side in ("source", "target")
    ]
    cut = len(measured["source_layers"]) < certificate["source"]["num_hidden_layers"]
    where = f"layers {measured['source_layers']} against {measured['target_layers']}" if cut else "the whole models"
    lines = [
        ("growth", f"{certificate['family']}: {sizes[0]} -> {sizes[1]}"),
        ("function", certificate["verdict"]),
        ("largest change of a logit", f"{measured['max_logit_difference']:.2g}, in {measured['dtype']}, of {where}"),
        ("loss on random tokens", f"{measured['source_loss']:.6f} -> {measured['grown_loss']:.6f}"),
        ("source digest", certificate["source_digest"]),
        ("written", f"{out} ({certificate['format']}, {certificate['dtype']})"),
    ]
    if not certificate["measured_agrees"]:
        lines.append(("FAULT", "the growth should be exact and is not; please report it"))
    width = max(len(label) for label, _ in lines)
    return "\n".join(f"{label:<{width}}  {value}" for label, value in lines)
