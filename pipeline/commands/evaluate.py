"""What tasks make of models, on any number of ranks (launch/evaluate.py)."""

import argparse
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from data_prep.jobs.workers import started_by_mpi
from pipeline.commands.task_kinds import Subject, Task, task_of
from pipeline.common.errors import UserError
from pipeline.common.files import HeldError, locked
from pipeline.common.hub import commit_of, find_directory
from pipeline.common.quiet import status_of
from pipeline.evaluation.models import EvaluatedModel, FoundModel, find_model, newest, scorer_of, whole_model
from pipeline.evaluation.scores import Score, record, table
from pipeline.evaluation.scoring import Scorer
from pipeline.runs import RunPaths

logger = logging.getLogger(__name__)


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
        path = self._ds_config
        if path is None:
            module = self.agree(lambda: whole_model(found.source, self.device, dtype))
            forward = module
        else:
            from pipeline.training.inference import load_partitioning, partitioned_engine

            ds_config = self.agree(lambda: load_partitioning(path, dtype))
            forward = partitioned_engine(found.source, ds_config)
            module = forward.module
        ranks = {"rank": self.rank, "ranks": self.count, **self._total}
        scorer = scorer_of(module, found.family, forward, self.device, **ranks, name=name)
        return EvaluatedModel(**vars(found), module=module), scorer


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
    """Keep a run from going on at the same time where the file belongs to one; raises UserError where one is."""
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


def find(path: Path, tasks: Mapping[str, Task], arguments: argparse.Namespace, ranks: Ranks) -> tuple[Path, FoundModel]:
    """Return a model and where it lies; a collective call. Raises UserError where a task cannot be put to it."""
    # A run that is going on, or a branch of the hub, moves on meanwhile: all ranks and tasks are to have the same.
    local = ranks.first(lambda: _local(path, arguments.revision))
    if (commit := commit_of(local)) is not None:
        local = ranks.by_node(lambda: _local(path, commit))
    place = ranks.first(lambda: newest(local))
    split = arguments.split_special_tokens == "true"
    found = ranks.agree(
        lambda: find_model(place, config=arguments.config, part=ranks.rank, parts=ranks.count, split_special_tokens=split)
    )

    def check() -> None:
        for task in tasks.values():
            task.check(found)

    ranks.agree(check)
    # Before hours are spent on what cannot be written then.
    ranks.agree(lambda: keep([], found, arguments.out) if ranks.rank == 0 else None)
    return place, found


def _local(path: Path, revision: str | None) -> Path:
    absent = f"{path}: no such directory; name a Hugging Face model, a run directory or a checkpoint"
    return find_directory(str(path), revision, absent, weights=True)


def evaluate(
    path: Path, place: Path, found: FoundModel, tasks: Mapping[str, Task], arguments: argparse.Namespace, ranks: Ranks
) -> list[Score]:
    """Return what the tasks make of one model, written down one by one; a collective call."""
    dtype = getattr(torch, arguments.dtype or ("float32" if ranks.device.type == "cpu" else "bfloat16"))
    build = cache(lambda: ranks.build(str(path), found, dtype))
    scores: list[Score] = []
    for name, task in tasks.items():
        scored = task.score(Subject(f"{path}: {name}", place, build, ranks.agree))
        scores.append(Score(str(path), found.digest, found.stage, found.step, **scored._asdict(), **found.encoder.digests))
        ranks.agree(lambda: keep(scores[-1:], found, arguments.out) if ranks.rank == 0 else None)
    return scores


def run(arguments: argparse.Namespace) -> None:
    """Score the models."""
    ranks = Ranks(arguments.ds_config)
    tasks = {name: task_of(name, arguments) for name in arguments.task}

    def prepare() -> None:
        for task in tasks.values():
            task.prepare(ranks.count)
        if arguments.out is not None and not arguments.out.resolve().parent.is_dir():
            raise UserError(f"--out: {arguments.out.parent} is no directory; make it, or name another file")

    ranks.agree(prepare)
    # All of them first: what the last one refuses is to be known before the hours that the others take.
    models = [(path, *find(path, tasks, arguments, ranks)) for path in arguments.model]
    for path, _, found in models:
        for remark in (*found.source.remarks, *found.tokenizer.remarks):
            logger.info("%s: %s", path, remark)
    for path, place, found in models:
        logger.info("%s", table(evaluate(path, place, found, tasks, arguments, ranks)))
        if arguments.out is None and found.run is None:
            logger.info("the scores are not written to a file; name one with --out")


work = partial(status_of, run)
"""Score the models; return the exit status."""
