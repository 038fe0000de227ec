"""Models to evaluate: opened from a directory, a run or a checkpoint, with their tokenizer and their place in a run."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.utils import ModelOutput

from data_prep.tokenizers.files import copy_files
from data_prep.tokenizers.loading import Tokenizer
from pipeline.common.errors import UserError
from pipeline.common.progress import Meter
from pipeline.evaluation.encoding import Encoder, open_tokenizer
from pipeline.evaluation.scoring import Scorer
from pipeline.families import Family, held_by
from pipeline.families.routing import choose_products, route_in_float32
from pipeline.growth.fused_parameters import parameters_of
from pipeline.growth.huggingface import open_huggingface
from pipeline.growth.huggingface_sink import write_huggingface
from pipeline.growth.inspection import inspect
from pipeline.growth.offline import files_beside
from pipeline.growth.probe import elements
from pipeline.growth.sources import CHECKPOINTS, checkpoint_in, model_in, open_source
from pipeline.growth.state import Source
from pipeline.growth.trainer_checkpoints import CONFIG
from pipeline.growth.zero_checkpoint import PROGRESS
from pipeline.recipe import SOURCE_STAGE
from pipeline.runs import RunPaths, StepLines
from pipeline.runs.records import ProgressRecord, SummaryRecord, read_record


@dataclass(frozen=True)
class FoundModel:
    """A model that can be read, and all that a score says of it."""

    source: Source
    tokenizer: Tokenizer
    digest: str
    """`pipeline.growth.inspection.inspect` of its weights."""
    run: RunPaths | None
    """The run that it belongs to."""
    stage: str | None
    step: int | None

    @property
    def family(self) -> Family:
        """Its family."""
        return self.source.family

    @property
    def config(self) -> PretrainedConfig:
        """Its configuration."""
        return self.source.config

    @property
    def encoder(self) -> Encoder:
        """Its tokenizer, as the zero-shot tasks use it."""
        return Encoder(self.tokenizer, self.config)


@dataclass(frozen=True)
class EvaluatedModel(FoundModel):
    """A model that is ready to run."""

    module: PreTrainedModel
    """The Hugging Face class with the head of its family's objective."""


class _Place(NamedTuple):
    """Where a model lies."""

    directory: Path
    """What holds its weights and its tokenizer."""
    run: RunPaths | None
    stage: str | None
    step: int | None


def newest(path: Path) -> Path:
    """Return the directory of the weights that `find_model` finds, which stays the same while a run goes on.

    Raises UserError where there are none.
    """
    return _place_of(path).directory


def find_model(
    path: Path, *, config: Path | None = None, part: int = 0, parts: int = 1, split_special_tokens: bool = True
) -> FoundModel:
    """Return what there is to read of the model in a Hugging Face directory, a checkpoint or a run directory.

    A run's is that of its newest checkpoint, or where it is finished the one that it left. `config` is the config.json
    of a checkpoint that has none (`open_source`). Of `parts` processes that open
    it together each compares its `part` of a checkpoint's files with their digests. Its tokenizer reads special tokens that
    a text spells as text, unless `split_special_tokens` is false. Raises UserError where there is no model, no tokenizer, or
    one with more ids than the model has.
    """
    place = _place_of(path)
    source = open_source(place.directory, config=config, part=part, parts=parts)
    tokenizer = open_tokenizer(source.beside, source.config, split_special_tokens)
    digest = inspect(source.state, str(place.directory))
    return FoundModel(source, tokenizer, digest, place.run, place.stage, place.step)


def whole_model(source: Source, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """Return a source's Hugging Face model, whole on one device, in `dtype`."""
    graph = source.family.graph(source.config)
    choose_products(source.config, graph, dtype)
    with no_init_weights():
        model = source.family.model_class(source.config).eval()
    # no_init_weights leaves out the tying too.
    model.tie_weights()
    route_in_float32(model, graph)
    with Meter(f"{source.directory}: loading", elements(source.state), "values") as meter:
        state = parameters_of(source.family.graph(source.config), source.state)
        for name, tensor in held_by(model).items():
            rows = state[name]
            # The parameters alone: buffers, rotary frequencies among them, stay in float32.
            kept = dtype if isinstance(tensor, nn.Parameter) else tensor.dtype
            tensor.data = rows.rows(0, rows.shape[0]).to(device, kept)
            meter.advance(tensor.numel())
    return model.requires_grad_(False).to(device)


def scorer_of(
    module: PreTrainedModel,
    family: Family,
    forward: Callable[..., ModelOutput],
    device: torch.device,
    *,
    rank: int = 0,
    ranks: int = 1,
    total: Callable[..., list[float]] = lambda *values: list(values),
    name: str = "model",
) -> Scorer:
    """Return how a model is run: by `forward`, which is the module itself where nothing is wrapped around it.

    `name` is what the model is called where progress is shown.
    """
    extra = {"use_cache": False} if family.objective == "clm" else {}

    def logits(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return forward(input_ids=input_ids, attention_mask=attention_mask, **extra)[family.logits]

    return Scorer(module, logits, device, rank, ranks, total, name)


@contextmanager
def huggingface_directory(path: Path, config: Path | None = None) -> Iterator[Path]:
    """Yield a Hugging Face directory, with tokenizer, of the model that `find_model` finds, by the same `config`.

    The model's own where it lies in one; else an export in float32 that vanishes behind the block.
    """
    place = _place_of(path)
    if checkpoint_in(place.directory) is None:
        open_tokenizer(place.directory, open_huggingface(place.directory).config)
        yield place.directory
        return
    source = open_source(place.directory, config=config)
    open_tokenizer(source.beside, source.config)
    with tempfile.TemporaryDirectory(prefix="model-") as folder:
        with Meter(f"{path}: exporting", elements(source.state) * torch.float32.itemsize) as meter:
            write_huggingface(Path(folder), source.config, source.state, torch.float32, progress=meter.advance)
        copy_files(files_beside(source.beside), source.beside, Path(folder))
        yield Path(folder)


def _place_of(path: Path) -> _Place:
    if not path.is_dir():
        raise UserError(f"{path}: no such directory; name a Hugging Face model, a run directory or a checkpoint")
    if RunPaths(path).recipe.is_file():
        return _newest(RunPaths(path))
    path = model_in(path)
    checkpoint = checkpoint_in(path)
    # Where the one that is named is not there, `open_source` says what stands for it.
    directory = path if checkpoint is None or not checkpoint.is_dir() else checkpoint
    if checkpoint is None and not (path / CONFIG).is_file():
        runs = sorted(below.name for below in path.iterdir() if RunPaths(below).recipe.is_file())
        hint = f"name one of the runs in it, for instance {path / runs[0]}" if runs else "name one that is"
        raise UserError(f"{path}: neither a run, a checkpoint nor a Hugging Face model, which has a config.json; {hint}")
    parent = path.resolve().parent
    run = RunPaths(parent.parent if parent.name == CHECKPOINTS else parent)
    if not run.recipe.is_file():
        return _Place(directory, None, None, None)
    if checkpoint is not None:
        step = _step_of(checkpoint)
        return _Place(directory, run, _stage_at(run, step), step)
    if path.resolve().name == run.model.name:
        return _Place(directory, run, *_last_step(run))
    if path.resolve().name == run.source_model.name:
        return _Place(directory, run, *_last_step(run, SOURCE_STAGE))
    return _Place(directory, None, None, None)


def _newest(run: RunPaths) -> _Place:
    """What a run has come to."""
    checkpoint = checkpoint_in(run.path)
    stage, last = _last_step(run)
    summary = read_record(run.summary, SummaryRecord, "put it back, or start the run again, which makes it again")
    finished = summary is not None and summary["steps"] == last
    # What a finished run left needs no digests compared, and stays where its checkpoints were removed.
    if run.model.is_dir() and (finished or checkpoint is None):
        return _Place(run.model, run, stage, last)
    if checkpoint is None:
        raise UserError(f"{run.path}: the run has no checkpoint and no model yet; wait for its first one")
    step = _step_of(checkpoint)
    return _Place(checkpoint, run, _stage_at(run, step), step)


def _step_of(checkpoint: Path) -> int | None:
    progress = read_record(checkpoint / PROGRESS, ProgressRecord)
    return None if progress is None else progress["step"]


def _last_step(run: RunPaths, stage: str | None = None) -> tuple[str | None, int | None]:
    """The stage and number of a run's last step, or of a stage's last."""
    records = [record for record in StepLines(run.metrics).read() if stage in (None, record["stage"])]
    return (records[-1]["stage"], records[-1]["step"]) if records else (stage, None)


def _stage_at(run: RunPaths, step: int | None) -> str | None:
    return next((record["stage"] for record in StepLines(run.metrics).read() if record["step"] == step), None)
