"""Fine-tuning on a task: the grid, the seeds, and what comes of them."""

import math
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pipeline.common.errors import UserError
from pipeline.evaluation.tuning.classification import Classification
from pipeline.evaluation.tuning.examples import TaskData
from pipeline.evaluation.tuning.glue import GLUE
from pipeline.evaluation.tuning.model import Pretrained, as_pretrained, open_pretrained
from pipeline.evaluation.tuning.options import TuningOptions
from pipeline.evaluation.tuning.problem import Problem
from pipeline.evaluation.tuning.spans import Answering
from pipeline.evaluation.tuning.squad import SQUAD, read_squad
from pipeline.evaluation.tuning.trials import WARMUP, WEIGHT_DECAY, Trial, computed_in, ranks, train
from pipeline.growth.state import Source


@dataclass(frozen=True)
class TuningTask:
    """A task that models are fine-tuned on."""

    read: Callable[[Sequence[Path]], TaskData]
    pose: Callable[[TaskData, Pretrained, int], Problem]
    """Bring data, model and longest input together."""
    learning_rates: tuple[float, ...] = (5e-6, 1e-5, 2e-5, 3e-5)
    batch_sizes: tuple[int, ...] = (32,)
    epochs: tuple[int, ...] = (4, 5, 10)
    max_length: int = 128


def _glue(name: str) -> TuningTask:
    return TuningTask(GLUE[name].read, lambda *posed: Classification(GLUE[name], *posed))


TUNING_TASKS: dict[str, TuningTask] = {name: _glue(name) for name in GLUE} | {
    SQUAD: TuningTask(read_squad, Answering, (3e-5,), (16,), (4,), 384)
}
"""By name, each with bert2BERT's grid (Chen et al. 2022, section 4.1)."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    trial: Trial
    seed: int
    epoch: int
    """The best one, from 1."""
    metrics: dict[str, float]


def check_tuning(task: str, model_dir: Path, source: Source, sample: TaskData, options: TuningOptions) -> None:
    """Raise UserError where `tune` would refuse a model: its family, its tokenizer in `model_dir`, or its length.

    `sample` is a task's data, of which a few examples are enough. Nothing of the weights is read.
    """
    chosen = TUNING_TASKS[task]
    pretrained = as_pretrained(model_dir, source.family, source.config)
    chosen.pose(sample, pretrained, pretrained.length(options.max_length, chosen.max_length))


def tune(
    task: str,
    model_dir: Path,
    data: Sequence[Path],
    options: TuningOptions,
    say: Callable[[str], object],
    title: str | None = None,
) -> tuple[dict[str, float], dict[str, float] | None, dict[str, Any], dict[str, Any]]:
    """Fine-tune a model on a task; return the metrics' means over the seeds, their deviations, and what a score says of
    data and settings.

    The grid is searched with the first seed; its best point, the first of equals, is repeated with the others. Of each
    training its best epoch counts. Both are chosen on the development part, which the score is of, as bert2BERT's Table 2
    has it. Deviations are those of a sample, None of one seed. All ranks return the same; `say` is called on rank 0. What is
    said, and shown as progress, begins with `title`, the task where it is not given.
    Raises UserError where the data, the model or an option cannot be used.
    """
    chosen = TUNING_TASKS[task]
    if options.ds_config is not None:
        raise UserError(
            f"--ds_config: {task} keeps a whole model on each rank and shares out batches alone; leave {options.ds_config} away"
        )
    examples = chosen.read(data).limited(options.max_train, options.max_eval)
    pretrained = open_pretrained(model_dir)
    max_length = pretrained.length(options.max_length, chosen.max_length)
    problem = chosen.pose(examples, pretrained, max_length)
    grid = {
        "learning_rates": list(options.learning_rates or chosen.learning_rates),
        "batch_sizes": list(options.batch_sizes or chosen.batch_sizes),
        "epochs": list(options.epochs or chosen.epochs),
    }
    told = say if os.environ.get("RANK", "0") == "0" else lambda _: None

    first, *others = options.seeds
    points = [Trial(*point) for point in product(*grid.values())]
    trials = len(points) + len(others)

    def outcome(trial: Trial, seed: int, number: int) -> _Outcome:
        setting = f"learning rate {trial.learning_rate:g}, batch {trial.batch_size}, {trial.epochs} epochs, seed {seed}"
        scores = train(problem, trial, seed, options, f"{title or task}: trial {number} of {trials}, {setting}")
        epoch = max(range(len(scores)), key=lambda number: _rank(scores[number][problem.chooses]))
        told(
            f"{title or task}: {setting}: "
            + ", ".join(f"{name} {value:.4f}" for name, value in scores[epoch].items())
            + f" after epoch {epoch + 1}"
        )
        return _Outcome(trial, seed, epoch + 1, scores[epoch])

    searched = (outcome(point, first, number) for number, point in enumerate(points, start=1))
    best = max(searched, key=lambda found: _rank(found.metrics[problem.chooses]))
    outcomes = [best, *(outcome(best.trial, seed, number) for number, seed in enumerate(others, start=len(points) + 1))]
    values = {name: [found.metrics[name] for found in outcomes] for name in best.metrics}
    settings = grid | {
        "seeds": list(options.seeds),
        "searched": "the grid with the first seed, its best point with the others; best epoch of each, all on the scored part",
        "chosen_by": problem.chooses,
        "chosen": {
            "learning_rate": best.trial.learning_rate,
            "batch_size": best.trial.batch_size,
            "epochs": best.trial.epochs,
            "best_epochs": [found.epoch for found in outcomes],
        },
        "max_train": options.max_train,
        "max_eval": options.max_eval,
        "max_length": max_length,
        "split_special_tokens": pretrained.tokenizer.split_special_tokens,
        "dropout": options.dropout,
        "dtype": computed_in(options),
        "optimizer": f"adamw, weight decay {WEIGHT_DECAY}, warmup {WARMUP:.0%}, linear",
        "ranks": ranks(),
    }
    means = {name: statistics.fmean(numbers) for name, numbers in values.items()}
    deviations = {name: _deviation(numbers) for name, numbers in values.items()} if others else None
    return means, deviations, examples.description | problem.baseline, settings


def _deviation(numbers: list[float]) -> float:
    """Of a sample; NaN, which statistics.stdev fails on, where a number is none."""
    return statistics.stdev(numbers) if all(map(math.isfinite, numbers)) else math.nan


def _rank(value: float) -> float:
    """A value as it is compared: what is no number is less than any."""
    return -math.inf if math.isnan(value) else value
