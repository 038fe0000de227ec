"""The kinds of task that models are scored on, as the evaluate command runs them."""

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.common.errors import UserError
from pipeline.common.progress import Meter
from pipeline.evaluation.harness import check_installed, harness_score
from pipeline.evaluation.models import EvaluatedModel, FoundModel, huggingface_directory
from pipeline.evaluation.registry import HARNESS, TUNING, zero_shot_task
from pipeline.evaluation.scores import Scored
from pipeline.evaluation.scoring import Scorer
from pipeline.evaluation.tuning.search import check_tuning, tune
from pipeline.evaluation.zero_shot.evaluate import Options, check_causal, check_model, score_tasks


@dataclass(frozen=True)
class Subject:
    """A model, as tasks are put to it."""

    title: str
    """What progress is shown under."""
    place: Path
    """Where it lies."""
    build: Callable[[], tuple[EvaluatedModel, Scorer]]
    """Returns it ready to run, and how it is run; a collective call."""
    agree: Callable[[Callable[[], Any]], Any]
    """Does some work on each rank, and refuses on all what one refuses."""


class Task(Protocol):
    """One task of a command line; each method raises UserError for what it refuses."""

    def prepare(self, ranks: int) -> None:
        """Look for all that the task needs, before any model is opened."""

    def check(self, model: FoundModel) -> None:
        """Judge whether the task can be put to a model, of which no weights are read."""

    def score(self, subject: Subject) -> Scored:
        """Return what the task makes of a model; a collective call."""


def task_of(name: str, arguments: argparse.Namespace) -> Task:
    """Return the task that a command line names."""
    if name in TUNING:
        return _Tuning(name, arguments)
    return _Harness(name, arguments) if name.startswith(HARNESS) else _ZeroShot(name, arguments)


def _refuse_partitioning(name: str, arguments: argparse.Namespace) -> None:
    if arguments.ds_config is not None:
        raise UserError(f"--task {name}: needs a whole model on each rank; leave --ds_config out")


class _ZeroShot:
    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        self._name, self._data = name, arguments.data
        self._options = Options(arguments.window, arguments.stride, arguments.batch_size, arguments.limit, arguments.every)

    def prepare(self, ranks: int) -> None:
        task = zero_shot_task(self._name)
        if task.find(self._data) is None:
            # What the hub has once given it keeps.
            task.read(None)

    def check(self, model: FoundModel) -> None:
        check_model(self._name, model.family, model.encoder, self._options)

    def score(self, subject: Subject) -> Scored:
        model, scorer = subject.build()
        (scored,) = score_tasks([self._name], scorer, model.family, model.encoder, self._data, self._options)
        return scored


class _Tuning:
    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        self._name, self._arguments, self._data = name, arguments, arguments.data or []

    def prepare(self, ranks: int) -> None:
        _refuse_partitioning(self._name, self._arguments)
        # An example is enough to judge a model by.
        self._sample = TUNING[self._name].read(self._data).limited(1, 1)

    def check(self, model: FoundModel) -> None:
        check_tuning(self._name, model.source.beside, model.source, self._sample, self._arguments.tuning)

    def score(self, subject: Subject) -> Scored:
        began = time.monotonic()
        with ExitStack() as stack:
            exported = huggingface_directory(subject.place, self._arguments.config)
            directory = subject.agree(lambda: stack.enter_context(exported))
            scored = tune(self._name, directory, self._data, self._arguments.tuning, subject.title)
        return scored._replace(seconds=time.monotonic() - began)


class _Harness:
    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        self._name, self._arguments = name, arguments

    def prepare(self, ranks: int) -> None:
        if ranks > 1:
            raise UserError(f"--task {self._name}: is one process's work; start it with python")
        _refuse_partitioning(self._name, self._arguments)
        check_installed(self._name)

    def check(self, model: FoundModel) -> None:
        check_causal(self._name, model.family, "--task")

    def score(self, subject: Subject) -> Scored:
        given, (model, _) = self._arguments, subject.build()
        # What lm_eval shows itself names neither model nor task.
        with Meter(subject.title):
            return harness_score(self._name, model, given.include_path, given.window, given.batch_size, given.limit)
