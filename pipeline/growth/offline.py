"""Growth from directory to directory: no GPU, no training, memory bounded by a few chunks of rows."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PretrainedConfig

from data_prep.tokenizers.files import copy_files, tokenizer_files
from pipeline.common.background import Background
from pipeline.common.config import read_json
from pipeline.common.errors import UserError
from pipeline.common.files import regular_files, whole_directory, write_json
from pipeline.common.progress import Meter
from pipeline.families import (
    FLOATS,
    LAYER_LISTS,
    QUANTIZATION,
    check_growth,
    check_trained,
    derived_sizes,
    keep_context,
    read_config,
    target_config,
)
from pipeline.growth.certificate import certify
from pipeline.growth.generation import GENERATION, write_generation_config
from pipeline.growth.huggingface import dtype_of
from pipeline.growth.huggingface_sink import write_error, write_huggingface
from pipeline.growth.inspection import inspect, inspect_optimizer
from pipeline.growth.new_tokenizer import NewTokenizer, open_new_tokenizer
from pipeline.growth.optimizer_growth import begin_optimizer, going_on_from
from pipeline.growth.plan import plan_growth
from pipeline.growth.probe import compare, elements
from pipeline.growth.sources import open_source, preview_source
from pipeline.growth.state import OptimizerState, State
from pipeline.growth.tokenizer_beside import check_beside, write_tokenizer_length
from pipeline.growth.zero_files import bytes_of_rank, write_zero3
from pipeline.recipe import GrowthConfig, TargetConfig

CERTIFICATE = "certificate.json"


GIB = 2**30


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
    world_size: int | None
    """Ranks: of the ZeRO-3 checkpoint, or of the training whose memory is estimated; 1 where None."""
    out: Path | None
    """None where nothing will be written."""
    untrusted: bool = False
    """Whether the source may be a checkpoint that has lost the list of what its files should be."""
    tokenizer: str | None = None
    """The target's, where it is another than the source's: a directory, or a name on the hub."""
    config: Path | None = None
    """The source's config.json, or a directory with one, where the source is a checkpoint that has none."""
    source_name: str | None = None
    """What the certificate and the card call the source; its path where None."""

    @property
    def output(self) -> Path:
        """The directory that is written; raises ValueError where nothing will be."""
        if self.out is None:
            raise ValueError("a growth that writes nothing has no directory")
        return self.out

    @property
    def called(self) -> str:
        """What the source is called."""
        return self.source_name or str(self.source)


class OfflineGrowth:
    """A request whose source is open and whose plan is made; nothing is computed or written yet."""

    def __init__(self, request: Request, *, preview: bool = False) -> None:
        """Raises UserError where something is wrong with the request that can be known without reading the weights.

        A growth that is only a `preview` and never executed needs no more of its source than a config.json.
        """
        self.request = request
        if request.out is not None:
            _check_absent(request.out)
        opened = preview_source if preview else open_source
        source = opened(request.source, config=request.config, untrusted=request.untrusted)
        self.source = source
        self.beside = files_beside(source.beside)
        self.tokenizer = None if request.tokenizer is None else open_new_tokenizer(source, request.tokenizer)
        if isinstance(request.target, Path):
            # A file names every size.
            where, derived = f"{request.target}: ", []
            self.target = _target_of_file(request.target, source.config, request.growth, self.tokenizer)
        else:
            where, sizes = "target.", request.target
            sizes = sizes if self.tokenizer is None else self.tokenizer.sized(sizes, where)
            self.target = target_config(source.config, sizes, where, request.growth)
            derived = derived_sizes(source.config, self.target, request.target, request.growth)
        plan = plan_growth(
            source.config,
            self.target,
            request.growth,
            request.seed,
            derived=derived,
            stock=True,
            tokenizer=self.tokenizer,
            where=where,
        )
        if isinstance(request.target, Path):
            plan = replace(plan, choices=[*plan.choices, *_lists_not_taken(self.target, plan.config)])
        self.plan = plan
        self.target = self.plan.config
        generation = source.beside / GENERATION
        self.generation = None
        if self.tokenizer is not None:
            check_beside(self.tokenizer.tokenizer, self.target)
            self.generation = self.tokenizer.generation(generation, source.config) if generation in self.beside else None
        self._check_options()
        if request.growth.optimizer_state == "grow":
            self.plan = going_on_from(self.plan, source.optimizer)
        self.dtype = dtype_of(source.config) if request.dtype is None else FLOATS[request.dtype]
        if request.format == "zero3" and self.dtype is torch.float64:
            raise UserError("dtype: DeepSpeed does not train in float64; name float32, bfloat16 or float16")
        self.ranks = request.world_size or 1
        wide = torch.float64 if self.dtype is torch.float64 else torch.float32
        self.grown: State = self.plan.grow(source.state, wide)
        self.optimizer: OptimizerState | None = None
        """Adam's state of the target; None where it starts afresh."""
        if request.growth.optimizer_state == "grow":
            self.optimizer = begin_optimizer(self.plan, source.optimizer)

    def _check_options(self) -> None:
        growth, format = self.plan.growth, self.request.format
        for key, needs in (("format", format == "zero3"), ("growth.optimizer_state", growth.optimizer_state == "grow")):
            if needs:
                check_trained(self.plan.family, key)
        if growth.norm_statistics == "weighted":
            raise UserError(
                "growth.norm_statistics: norms are weighted in training, never in a file; use launch/pretrain.py, or stock"
            )
        if growth.optimizer_state == "grow" and format == "hf":
            raise UserError(
                "growth.optimizer_state: a Hugging Face directory holds no optimizer; name zero3 as the format, or choose fresh"
            )
        if growth.added.steps and growth.optimizer_state == "fresh":
            raise UserError(
                "growth.added: what is new is kept with the optimizer's state, which here is not written; choose "
                "optimizer_state: grow and the format zero3, or leave it out and let a recipe grow the model that it trains"
            )

    def execute(
        self, beside: Callable[[dict[str, Any]], dict[str, str]], record: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Grow, and return the certificate, which lies beside the weights, as do the texts that `beside` makes of it by name.

        A checkpoint's progress.json takes up `record`. Raises UserError where the source holds NaN or infinity, or the disk
        is full, and RuntimeError where a growth that should be exact is not; the directory then does not exist.
        """
        request = self.request
        if request.format == "hf" and request.world_size is not None:
            raise UserError("world_size: a Hugging Face directory has no ranks; leave it out, or name zero3 as the format")
        self._check_room()
        try:
            with whole_directory(request.output) as temporary:
                # Another growth may have put its own there while the source was opened.
                _check_absent(request.output)
                # Both beside the writing: what is written is not there before they have ended well.
                looked = Background(self._looked_through)
                compared = Background(lambda: compare(self.source, self.plan, self.target))
                try:
                    self._write(temporary, record, looked)
                    digests = looked.result()
                except UserError:
                    # A process that ends while a thread of its is inside torch is aborted.
                    compared.wait()
                    # What is wrong with the source is the cause, where something is.
                    looked.result()
                    raise
                certificate = self._certificate(digests, compared.result())
                write_json(temporary / CERTIFICATE, certificate)
                for name, text in beside(certificate).items():
                    (temporary / name).write_text(text, encoding="utf-8")
                # Whatever has come there meanwhile is not ours to replace.
                _check_absent(request.output)
        except OSError as error:
            raise write_error(request.output, error) from None
        return certificate

    def _looked_through(self) -> tuple[str, str | None]:
        """Return the digests of the source's weights and of the optimizer's state that grows; raises UserError for NaN."""
        origin = self.request.called
        digest = inspect(self.source.state, origin)
        return digest, None if self.optimizer is None else inspect_optimizer(self.source.optimizer or {}, origin)

    def _certificate(self, digests: tuple[str, str | None], measured: Mapping[str, Any]) -> dict[str, Any]:
        """Return the certificate; raises RuntimeError where a growth that should be exact is not."""
        digest, optimizer_digest = digests
        certificate = certify(self.plan, self.request.called, digest, measured, remarks=self.source.remarks) | {
            "optimizer_digest": optimizer_digest,
            "format": self.request.format,
            "dtype": str(self.dtype).removeprefix("torch."),
            "world_size": self.ranks if self.request.format == "zero3" else None,
        }
        if not certificate["measured_agrees"]:
            raise RuntimeError(
                f"this growth should preserve the function and moves a logit by {measured['max_logit_difference']:.2g} in "
                "float64; nothing was written; please report it, with the command and the source's config.json"
            )
        return certificate

    def _write(self, directory: Path, record: Mapping[str, Any] | None, looked: Background[Any]) -> None:
        """Write the grown model; raises what `looked` has raised as soon as that is known."""
        with Meter(f"{self.request.out}: writing", self.bytes_written) as meter:

            def advance(amount: int) -> None:
                meter.advance(amount)
                if looked.failed:
                    looked.result()

            if self.request.format == "hf":
                write_huggingface(directory, self.target, self.grown, self.dtype, progress=advance)
                self._write_beside(directory)
                write_tokenizer_length(directory, self.target, self.source.config)
                write_generation_config(directory, self.target, directory)
            else:
                write_zero3(
                    directory,
                    self.target,
                    self.grown,
                    self.ranks,
                    dtype=self.dtype,
                    optimizer=self.optimizer,
                    beside=self._write_beside,
                    record=record,
                    progress=advance,
                )

    def _write_beside(self, folder: Path) -> None:
        """Write what comes with the model: its tokenizer, and how it generates."""
        if self.tokenizer is None:
            copy_files(self.beside, self.source.beside, folder)
            return
        self.tokenizer.tokenizer.write(folder)
        if self.generation is not None:
            write_json(folder / GENERATION, self.generation)

    @property
    def bytes_written(self) -> int:
        """The bytes of the tensors that will be written."""
        if self.request.format == "hf":
            return elements(self.grown) * self.dtype.itemsize
        return self.ranks * bytes_of_rank(self.plan.graph, self.grown, self.ranks, self.optimizer)

    def _check_room(self) -> None:
        place = next(parent for parent in self.request.output.absolute().parents if parent.exists())
        free = shutil.disk_usage(place).free
        if free < self.bytes_written:
            raise UserError(
                f"{self.request.out}: needs {self.bytes_written / GIB:.1f} GiB and {free / GIB:.1f} GiB are free; free "
                "disk space or name another directory"
            )


def files_beside(directory: Path) -> list[Path]:
    """Return the files beside a model that hold for the grown one too, its tokenizer's above all.

    Raises UserError for one that is no file.
    """
    return [*tokenizer_files(directory), *regular_files([directory / GENERATION])]


def _check_absent(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists and is not an empty directory; name a new one, or remove it")


def _lists_not_taken(wanted: PretrainedConfig, settled: PretrainedConfig) -> list[str]:
    """Say which lists of a target's file, an entry a layer, the grown model does not have."""
    return [
        f"{key}: a layer has what the source says of the layer that it is made of; what the target's file says is not taken"
        for key in LAYER_LISTS
        if getattr(wanted, key, None) != getattr(settled, key, None)
    ]


def _target_of_file(
    path: Path, source: PretrainedConfig, growth: GrowthConfig, tokenizer: NewTokenizer | None
) -> PretrainedConfig:
    """Return the configuration that a file holds; raises UserError where no growth of the source leads there."""
    target, where = read_config(path), f"{path}: "
    if getattr(target, QUANTIZATION, None) is not None:
        raise UserError(f"{path}: {QUANTIZATION}: weights are written as plain numbers; remove the key")
    keep_context(source, target, read_json(path, "name another file"))
    if tokenizer is not None:
        tokenizer.check_size(target.vocab_size, where)
    check_growth(source, target, where, growth, new_tokenizer=tokenizer is not None)
    return target
