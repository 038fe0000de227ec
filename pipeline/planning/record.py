"""The record that the planner fits its law on: one line a finished run, with its sizes, tokens, growths and loss."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from transformers import PretrainedConfig
from typing_extensions import TypedDict

from pipeline.common.config import typed
from pipeline.common.errors import UserError
from pipeline.common.files import write_atomically
from pipeline.families import graph_of, read_config, scratch_config, sizes_of, target_config
from pipeline.recipe import GrownPhase, GrowthConfig, Recipe, TrainStage
from pipeline.recipe.growth import DepthName, WidthName
from pipeline.report.recorded import RecordedRun, read_run
from pipeline.runs import JsonLines, RunPaths
from pipeline.runs.records import Count

logger = logging.getLogger(__name__)

_ANY_OTHERS = ConfigDict(extra="allow")

_INITIAL = "initializer_range"

_OF_THE_RUN = ("train_batch_size", "sequence_length", "lr", "schedule")
"""Keys that a stage may set itself."""

_OF_ONE_RUN = ("name", "run", "seed", "lr", "loss", "note")

_Positive = Annotated[int, Field(gt=0, lt=10**30)]


class SizesEntry(TypedDict):
    """What is noted of each model of a run."""

    hidden_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    num_key_value_heads: Count
    head_dim: Count
    intermediate_size: Count


@with_config(_ANY_OTHERS)
class PhaseEntry(SizesEntry):
    """One size of a run: the model, and what it was trained on at that size."""

    parameters: _Positive
    """Those that a token meets, embeddings among them."""
    tokens: _Positive
    flops: _Positive
    """Executed ones, without steps that were lost."""


@with_config(_ANY_OTHERS)
class GrowthEntry(TypedDict):
    """What led from one size to the next."""

    width: WidthName | None
    """The operator; None where the width did not change."""
    depth: DepthName | None
    """Likewise."""
    optimizer_state: Literal["grow", "fresh"]
    schedule_anew: bool
    """Whether the learning rate's schedule began again with the growth."""
    options: dict[str, Any]
    """Other keys of the recipe's growth section that are not at their defaults."""


def operators_of(growth: GrowthEntry) -> dict[str, str]:
    """Return the operators of a growth by the axes that changed, depth first."""
    operators = {"depth": growth["depth"], "width": growth["width"]}
    return {axis: operator for axis, operator in operators.items() if operator is not None}


def section_of(growth: GrowthEntry) -> dict[str, Any]:
    """Return the growth as keys of a recipe's growth section."""
    return {**operators_of(growth), "optimizer_state": growth["optimizer_state"], **growth["options"]}


@with_config(_ANY_OTHERS)
class ScheduleEntry(TypedDict):
    """The keys of a schedule by which settings differ."""

    name: str
    decay_ratio: Annotated[float, Field(ge=0, le=1)]
    final_ratio: Annotated[float, Field(ge=0, le=1)]


@with_config(_ANY_OTHERS)
class RunEntry(TypedDict):
    """A line of a record."""

    name: str
    run: str
    """The run's id; a run is in a record once."""
    family: str
    text: str
    """The fingerprint of the prepared text and its tokenizer: losses are compared among runs that share it."""
    vocab_size: Count
    sequence_length: Count
    seed: Count
    optimizer: str
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    batch_tokens: Count
    schedule: ScheduleEntry
    hyperparameters: NotRequired[dict[str, Any]]
    """`hyperparameters_of` its recipe; not known of runs that were recorded without."""
    phases: list[PhaseEntry]
    growths: list[GrowthEntry]
    """One fewer than phases."""
    loss: Annotated[float, Field(gt=0, lt=1000)]
    """On held-out text, at the end."""
    flops: Count
    """Executed ones of all phases, those of a given source among them, without steps that were lost."""
    note: NotRequired[str]


def entry_of(path: Path) -> RunEntry:
    """Return what a record notes of a finished run, its given source's own phases among them.

    Raises UserError where it has not ended with a loss, where its source is no run directory, and where it trained a model in
    parts, of which the law knows nothing.
    """
    run = read_run(path)
    if not run.ended or run.summary is None or run.final_loss is None:
        raise UserError(f"{path}: the run has not ended with a held-out loss; start it again to finish it, or leave it out")
    for stage in run.recipe.train_stages:
        check_stage(stage, str(path))
    phases, growths = _phases(run)
    given = run.recipe.source.path
    # Weights that were given were drawn when their own run began.
    inherited = {} if given is None else {_INITIAL: entry_of(Path(given)).get("hyperparameters", {}).get(_INITIAL)}
    batch = (run.ds_config or {}).get("train_batch_size", run.recipe.train_batch_size)
    return {
        "name": path.name,
        "run": run.summary.get("run", path.name),
        "family": run.summary["family"],
        "text": "" if run.data is None else run.data["fingerprint"],
        "vocab_size": run.certificates[-1]["target"]["vocab_size"],
        "sequence_length": run.recipe.data.sequence_length,
        "seed": run.recipe.seed,
        "optimizer": run.recipe.optimizer.name,
        "lr": run.recipe.optimizer.lr,
        "batch_tokens": batch * run.recipe.data.sequence_length,
        "schedule": typed(ScheduleEntry, run.recipe.schedule.model_dump(mode="json"), str(path)),
        "hyperparameters": hyperparameters_of(run.recipe) | inherited,
        "phases": phases,
        "growths": growths,
        "loss": run.final_loss,
        "flops": sum(phase["flops"] for phase in phases),
    }


def hyperparameters_of(recipe: Recipe) -> dict[str, Any]:
    """Return what losses depend on beside sizes, tokens, batch, peak rate and schedule."""
    optimizer = recipe.optimizer
    found: dict[str, Any] = {
        _INITIAL: None if recipe.source.model is None else recipe.source.model.initializer_range,
        "betas": list(optimizer.betas),
        "weight_decay": optimizer.weight_decay,
    }
    if optimizer.name == "muon":
        # Sweeps move both rates together.
        found["muon_lr / lr"] = 1.0 if optimizer.muon_lr is None else round(optimizer.muon_lr / optimizer.lr, 6)
    if optimizer.width_rates != "none":
        found |= {"width_rates": optimizer.width_rates, "base_width": optimizer.base_width}
    return found


def check_stage(stage: TrainStage, where: str) -> None:
    """Raise UserError, naming `where`, for a stage of which the law knows nothing: of a part, or with its own settings."""
    if stage.submodel_layers or stage.trainable:
        raise UserError(f"{where}: its stage {stage.name} trains a part of the model, which no law here is of; leave it out")
    own = [key for key in _OF_THE_RUN if getattr(stage, key) is not None]
    if own:
        raise UserError(
            f"{where}: its stage {stage.name} has its own {' and '.join(own)}, and the law is of stages that have the run's; "
            "leave it out"
        )


def _phases(run: RecordedRun) -> tuple[list[PhaseEntry], list[GrowthEntry]]:
    """The sizes of a run with what each was trained on, and the growths between them."""
    recipe, model = run.recipe, run.recipe.source.model
    phases: list[PhaseEntry] = []
    growths: list[GrowthEntry] = []
    if model is not None and recipe.source.path is None:
        vocab_size = run.certificates[0]["source"]["vocab_size"]
        config = scratch_config(model, vocab_size, 0, recipe.data.sequence_length)
    else:
        given = Path(recipe.source.path or "")
        if not RunPaths(given).summary.exists():
            raise UserError(
                f"{run.path}: its source {given} is no finished run here, whose tokens and FLOPs count too; put it back, or "
                "leave the run out"
            )
        source = entry_of(given)
        phases, growths = list(source["phases"]), list(source["growths"])
        config = read_config(RunPaths(given).model / "config.json")
    stages = {name: (begin, end) for name, begin, end in run.stages}
    for phase in recipe.phases:
        if isinstance(phase, GrownPhase):
            config = target_config(config, phase.target, growth=phase.growth)
        spent = [stages[stage.name] for stage in phase.stages if stage.name in stages]
        if not spent:
            continue
        tokens, flops = (
            int(sum(run.spent(end)[what] - run.spent(begin)[what] for begin, end in spent)) for what in ("tokens", "flops")
        )
        entry = phase_entry(config, tokens, flops)
        before = phases[-1] if phases else None
        if before is not None and noted_sizes(before) == noted_sizes(entry):
            # A load without a growth: the same model is trained on.
            before["tokens"] += tokens
            before["flops"] += flops
            continue
        if before is not None and isinstance(phase, GrownPhase):
            anew = recipe.schedule.span == "model" or (recipe.source.path is not None and phase.number == 1)
            # What the recipe leaves to be chosen, the certificate names.
            resolved = run.certificates[phase.number - 1]["growth"]
            section = (phase.growth or recipe.growth).model_dump(mode="json")
            section |= {"width": resolved["width"], "depth": resolved["depth"]}
            growths.append(growth_entry(before, entry, section, schedule_anew=anew))
        phases.append(entry)
    return phases, growths


def phase_entry(config: PretrainedConfig, tokens: int, flops: int) -> PhaseEntry:
    """Return what is noted of a model that was trained on so many tokens."""
    return {
        **typed(SizesEntry, noted_sizes(asdict(sizes_of(config))), "sizes"),
        "parameters": graph_of(config).active_parameters,
        "tokens": tokens,
        "flops": flops,
    }


def noted_sizes(sizes: Mapping[str, Any]) -> dict[str, int]:
    """Return of a model's sizes those that a record notes."""
    return {key: sizes[key] for key in SizesEntry.__annotations__}


def growth_entry(before: PhaseEntry, after: PhaseEntry, growth: dict[str, Any], *, schedule_anew: bool) -> GrowthEntry:
    """Return what is noted of a growth from its section of a recipe, operators that change nothing left out."""
    changed = {key for key, value in noted_sizes(after).items() if value != before.get(key)}
    deeper, wider = "num_hidden_layers" in changed, bool(changed - {"num_hidden_layers"})
    defaults = GrowthConfig().model_dump(mode="json")
    own = ("width", "depth", "optimizer_state")
    return {
        "width": growth["width"] if wider else None,
        "depth": growth["depth"] if deeper else None,
        "optimizer_state": growth["optimizer_state"],
        "schedule_anew": schedule_anew,
        "options": {key: value for key, value in growth.items() if key not in own and value != defaults[key]},
    }


def read_entries(paths: Iterable[Path]) -> list[RunEntry]:
    """Return the runs of records, each once; raises UserError naming a file that is not there, or a line that is damaged."""
    found: dict[str, RunEntry] = {}
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: no such record; name a file that `launch/plan.py --add RUN ... --record FILE` wrote")
        for entry in JsonLines(path, RunEntry).read(ended=True):
            _check_entry(entry, f"{path}: {entry['name']}")
            before = found.setdefault(entry["run"], entry)
            if (before["loss"], before["phases"]) != (entry["loss"], entry["phases"]):
                raise UserError(f"{path}: {entry['name']}: another line with the id {entry['run']} differs; remove one of them")
    return list(found.values())


def _check_entry(entry: RunEntry, where: str) -> None:
    phases, growths = entry["phases"], entry["growths"]
    if len(growths) + 1 != len(phases):
        raise UserError(f"{where} has {len(phases)} phases and {len(growths)} growths; one stands between two phases")
    if sum(phase["flops"] for phase in phases) != entry["flops"]:
        raise UserError(f"{where}: flops is not the sum of those of its phases; correct the line, or remove it")
    for before, after, growth in zip(phases, phases[1:], growths, strict=False):
        smaller = any(before[key] > after[key] for key in ("hidden_size", "num_hidden_layers"))
        if smaller or not operators_of(growth):
            raise UserError(f"{where}: a model is smaller than the one before it, or grown by nothing; correct the line")


def configuration(entry: RunEntry) -> str:
    """Return what an entry says of any run but for its name, id, seed, rate and loss, as JSON.

    What others add to it, as a suite the method's title, is no part of that.
    """
    return json.dumps({key: entry.get(key) for key in RunEntry.__annotations__ if key not in _OF_ONE_RUN}, sort_keys=True)


def best_rates(entries: Sequence[RunEntry]) -> list[RunEntry]:
    """Return the entries without those that a sweep passed over: of runs that differ in rate and seed alone the best rate's.

    Rates are compared by the seeds that all of them have; where there is none, the one with most seeds is taken.
    """
    by_configuration: dict[str, dict[float, list[RunEntry]]] = {}
    for entry in entries:
        by_configuration.setdefault(configuration(entry), {}).setdefault(entry["lr"], []).append(entry)
    found: list[RunEntry] = []
    for rates in by_configuration.values():
        seeds = {rate: {run["seed"] for run in runs} for rate, runs in rates.items()}
        if not (shared := set.intersection(*seeds.values())):
            most = max(map(len, seeds.values()))
            rates, shared = {rate: rates[rate] for rate, its in seeds.items() if len(its) == most}, set.union(*seeds.values())
        found += min(rates.values(), key=lambda runs: fmean(run["loss"] for run in runs if run["seed"] in shared))
    return found


def add_runs(record: Path, runs: Sequence[Path]) -> None:
    """Add finished runs to a record, which is made where it is not there; one that is in it already is written again.

    A folder of runs stands for those in it. Raises UserError where a run that was named cannot be added; one within a folder is
    left out, and a message says why.
    """
    entries = {entry["run"]: entry for entry in (read_entries([record]) if record.exists() else [])}
    before = dict(entries)
    for path in runs:
        alone = RunPaths(path).recipe.is_file() or not path.is_dir()
        within = [path] if alone else sorted(each for each in path.iterdir() if RunPaths(each).recipe.is_file())
        if not within:
            raise UserError(f"{path}: neither a run directory nor a folder of some; name what launch/pretrain.py wrote")
        for run in within:
            try:
                entry = entry_of(run)
            except UserError as error:
                if alone:
                    raise
                logger.info("left out: %s", error)
            else:
                entries[entry["run"]] = entry
    if entries != before:
        write_atomically(record, "".join(json.dumps(entry) + "\n" for entry in entries.values()))
    logger.info("%s: %d runs%s", record, len(entries), ", as before" if entries == before else "")
