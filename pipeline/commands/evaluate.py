"""launch/evaluate.py: what tasks make of models, on any number of ranks."""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from data_prep.jobs.workers import started_by_mpi
from pipeline.common.errors import UserError
from pipeline.common.files import HeldError, locked
from pipeline.common.hub import commit_of, find_directory
from pipeline.common.progress import Meter
from pipeline.common.quiet import status_of
from pipeline.evaluation.harness import check_installed, harness_score
from pipeline.evaluation.models import (
    EvaluatedModel,
    FoundModel,
    find_model,
    huggingface_directory,
    newest,
    scorer_of,
    whole_model,
)
from pipeline.evaluation.scores import Score, record, table
from pipeline.evaluation.scoring import Scorer
from pipeline.evaluation.task_names import HARNESS
from pipeline.evaluation.tasks import Options, Scored, check_family, check_model, score_tasks
from pipeline.evaluation.texts import find_file, read_corpus
from pipeline.evaluation.tuning.examples import TaskData
from pipeline.evaluation.tuning.search import TUNING_TASKS, check_tuning, tune
from pipeline.runs import RunPaths


class Ranks:
    """How many processes there are; DeepSpeed is imported only where there are several, or one is to partition."""

    def __init__(self, ds_config: Path | None) -> None:
        self.rank, self.count = 0, 1
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.agree: Callable[[Callable[[], Any]], Any] = lambda work: work()
        """Does some work on each rank, and refuses on all what one refuses."""
        self.first: Callable[[Callable[[], Any]], Any] = lambda work: work()
        """Does some work on the first rank, for all."""
        self.by_node: Callable[[Callable[[], Any]], Any] = lambda work: work()
        """Does some work on each rank, on one of each node first."""
        self._ds_config = ds_config
        self._total: dict[str, Any] = {}
        if "RANK" in os.environ or started_by_mpi() or ds_config is not None:
            from pipeline.training import distributed

            distributed.join()
            self.rank, self.count = distributed.rank(), distributed.world_size()
            self.device, self.agree, self.first = distributed.device(), distributed.on_every_rank, distributed.on_first_rank
            self.by_node = distributed.node_by_node
            self._total = {"total": distributed.total}

    def build(self, name: str, found: FoundModel, dtype: torch.dtype) -> tuple[EvaluatedModel, Scorer]:
        """Return a model that is ready, and how it is run; a collective call."""
        if self._ds_config is None:
            module = self.agree(lambda: whole_model(found.source, self.device, dtype))
            forward = module
        else:
            from pipeline.training.inference import load_partitioning, partitioned_engine

            ds_config = self.agree(lambda: load_partitioning(self._ds_config, dtype))
            forward = partitioned_engine(found.source, ds_config)
            module = forward.module
        ranks = {"rank": self.rank, "ranks": self.count, **self._total}
        scorer = scorer_of(module, found.family, forward, self.device, **ranks, name=name)
        return EvaluatedModel(**vars(found), module=module), scorer

    def say(self, line: str) -> None:
        """Print a line, on the first rank."""
        if self.rank == 0:
            print(line, flush=True)


def check(arguments: argparse.Namespace, ranks: Ranks) -> dict[str, TaskData]:
    """Return an example of each task to fine-tune on; raises UserError for all that can be refused before a model is opened."""
    samples: dict[str, TaskData] = {}
    for task in arguments.task:
        tuned, harness = task in TUNING_TASKS, task.startswith(HARNESS)
        if harness and ranks.count > 1:
            raise UserError(f"--task {task}: is one process's work; start it with python")
        if (tuned or harness) and arguments.ds_config is not None:
            raise UserError(f"--task {task}: wants a whole model on each rank; leave --ds_config out")
        if harness:
            check_installed(task)
        elif tuned:
            samples[task] = TUNING_TASKS[task].read(arguments.data or []).limited(1, 1)
        elif find_file(task, arguments.data) is None:
            # What the hub has once given it keeps.
            read_corpus(task, None)
    if arguments.out is not None and not arguments.out.resolve().parent.is_dir():
        raise UserError(f"--out: {arguments.out.parent} is no directory; make it, or name another file")
    return samples


def keep(scores: list[Score], found: FoundModel, out: Path | None) -> None:
    """Write scores where they belong; raises UserError where a run is going on there."""
    path = found.run.scores if out is None and found.run is not None else out
    if path is None:
        return
    # Others that evaluate may write there too: each reads the file and replaces it, in turn.
    turn = path.with_name(f"{path.name}.lock")
    with locked(turn, wait=True):
        try:
            with _no_run_at(path):
                record(path, scores)
        finally:
            turn.unlink()


@contextmanager
def _no_run_at(path: Path) -> Iterator[None]:
    """Keep a run from going on meanwhile where the file is its own; raises UserError where one is."""
    run = RunPaths(path.parent)
    if path.name != run.scores.name or not run.recipe.is_file():
        yield
        return
    try:
        with locked(run.lock, wait=False):
            yield
    except HeldError:
        raise UserError(
            f"{run.path}: the run is going on, and writes its scores itself; name a file with --out, or wait for it to end"
        ) from None


def find(path: Path, samples: dict[str, TaskData], arguments: argparse.Namespace, ranks: Ranks) -> tuple[Path, FoundModel]:
    """Return a model and where it lies; a collective call. Raises UserError where a task cannot be put to it."""
    # A run that is going on, or a branch of the hub, moves on meanwhile: all ranks and tasks are to have the same.
    local = ranks.first(lambda: _local(path, arguments.revision))
    if (commit := commit_of(local)) is not None:
        local = ranks.by_node(lambda: _local(path, commit))
    place = ranks.first(lambda: newest(local))
    split = arguments.split_special_tokens == "true"
    ours = {"part": ranks.rank, "parts": ranks.count}
    found = ranks.agree(lambda: find_model(place, config=arguments.config, **ours, split_special_tokens=split))

    def check_tasks() -> None:
        for task in arguments.task:
            if task in TUNING_TASKS:
                check_tuning(task, found.source.beside, found.source, samples[task], arguments.tuning)
            elif task.startswith(HARNESS):
                check_family(task, found.family, "--task")
            else:
                check_model(task, found.family, found.encoder, _options(arguments))

    ranks.agree(check_tasks)
    # Before hours are spent on what cannot be written then.
    ranks.agree(lambda: keep([], found, arguments.out) if ranks.rank == 0 else None)
    return place, found


def _local(path: Path, revision: str | None) -> Path:
    absent = f"{path}: no such directory; name a Hugging Face model, a run directory or a checkpoint"
    return find_directory(str(path), revision, absent, weights=True)


def evaluate(path: Path, place: Path, found: FoundModel, arguments: argparse.Namespace, ranks: Ranks) -> list[Score]:
    """Return what the tasks make of one model, written down one by one; a collective call."""
    dtype = getattr(torch, arguments.dtype or ("float32" if ranks.device.type == "cpu" else "bfloat16"))
    built: tuple[EvaluatedModel, Scorer] | None = None
    scores: list[Score] = []
    for task in arguments.task:
        if task in TUNING_TASKS:
            began = time.monotonic()
            with ExitStack() as stack:
                directory = ranks.agree(lambda: stack.enter_context(huggingface_directory(place, arguments.config)))
                metrics, deviations, data, settings = tune(
                    task, directory, arguments.data or [], arguments.tuning, ranks.say, f"{path}: {task}"
                )
            scored = Scored(task, metrics, data, settings, time.monotonic() - began)
        else:
            built = built or ranks.build(str(path), found, dtype)
            scored, deviations = score(task, *built, arguments), None
        model = (str(path), found.digest, found.stage, found.step)
        scores.append(Score(*model, deviations=deviations, **scored._asdict(), **found.digests))
        ranks.agree(lambda: keep(scores[-1:], found, arguments.out) if ranks.rank == 0 else None)
    return scores


def score(task: str, model: EvaluatedModel, scorer: Scorer, arguments: argparse.Namespace) -> Scored:
    """Return what a task that trains nothing makes of a model; a collective call."""
    if task.startswith(HARNESS):
        # What lm_eval shows of its own names neither model nor task.
        with Meter(f"{scorer.name}: {task}"):
            return harness_score(task, model, arguments.include_path, arguments.window, arguments.batch_size, arguments.limit)
    (scored,) = score_tasks([task], scorer, model.family, model.encoder, arguments.data, _options(arguments))
    return scored


def _options(arguments: argparse.Namespace) -> Options:
    return Options(arguments.window, arguments.stride, arguments.batch_size, arguments.limit, arguments.every)


def run(arguments: argparse.Namespace) -> None:
    """Score the models."""
    ranks = Ranks(arguments.ds_config)
    samples = ranks.agree(lambda: check(arguments, ranks))
    # All of them first: what the last one refuses is not to be learnt after the hours that the others take.
    models = [(path, *find(path, samples, arguments, ranks)) for path in arguments.model]
    for path, _, found in models:
        for remark in (*found.source.remarks, *found.tokenizer.remarks):
            ranks.say(f"{path}: {remark}")
    for path, place, found in models:
        ranks.say(table(evaluate(path, place, found, arguments, ranks)))
        if arguments.out is None and found.run is None:
            ranks.say("not kept: name a file with --out")


def work(arguments: argparse.Namespace) -> int:
    """Score the models; return the exit status."""
    return status_of(lambda: run(arguments))
