"""Fine-tuning on a task: the grid, the seeds, and what comes of them."""

import logging
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product, starmap
from pathlib import Path
from typing import Any

from pipeline.evaluation.registry import TUNING
from pipeline.evaluation.scores import Scored
from pipeline.evaluation.tuning.examples import TaskData
from pipeline.evaluation.tuning.model import as_pretrained, open_pretrained
from pipeline.evaluation.tuning.options import TuningOptions
from pipeline.evaluation.tuning.trials import WARMUP, WEIGHT_DECAY, Trial, computed_in, ranks, train
from pipeline.growth.state import Source

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Outcome:
    trial: Trial
    seed: int
    epoch: int
    """The best one, from 1."""
    metrics: dict[str, float]


def check_tuning(name: str, model_dir: Path, source: Source, sample: TaskData[Any], options: TuningOptions) -> None:
    """Raise UserError where `tune` would refuse a model: its family, its tokenizer in `model_dir`, or its length.

    `sample` is a task's data, of which a few examples are enough. Nothing of the weights is read.
    """
    task = TUNING[name]
    pretrained = as_pretrained(model_dir, source.family, source.config)
    task.problem(sample, pretrained, pretrained.length(options.max_length, task.grid.max_length))


def tune(name: str, model_dir: Path, data: Sequence[Path], options: TuningOptions, title: str | None = None) -> Scored:
    """Fine-tune a model on a task; return the metrics' means over the seeds and their deviations.

    The grid is searched with the first seed; its best point, the first of equals, is repeated with the others. Of each
    training its best epoch counts. Both are chosen on the development part, which the score is of, as in bert2BERT's Table 2.
    Deviations are those of a sample, None of one seed. All ranks return the same. Messages and progress begin with `title`,
    the task where it is not given. Raises UserError where the data, the model or an option cannot be used.
    """
    began, task, title = time.monotonic(), TUNING[name], title or name
    examples = task.read(data).limited(options.max_train, options.max_eval)
    pretrained = open_pretrained(model_dir)
    max_length = pretrained.length(options.max_length, task.grid.max_length)
    problem = task.problem(examples, pretrained, max_length)
    rates = options.learning_rates or task.grid.learning_rates
    batch_sizes, epochs = options.batch_sizes or task.grid.batch_sizes, options.epochs or task.grid.epochs
    first, *others = options.seeds
    points = list(starmap(Trial, product(rates, batch_sizes, epochs)))
    trials = len(points) + len(others)

    def outcome(trial: Trial, seed: int, number: int) -> _Outcome:
        setting = f"learning rate {trial.learning_rate:g}, batch {trial.batch_size}, {trial.epochs} epochs, seed {seed}"
        scores = train(problem, trial, seed, options, f"{title}: trial {number} of {trials}, {setting}")
        epoch = max(range(len(scores)), key=lambda number: _rank(scores[number][problem.chooses]))
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in scores[epoch].items())
        logger.info("%s: %s: %s after epoch %d", title, setting, metrics, epoch + 1)
        return _Outcome(trial, seed, epoch + 1, scores[epoch])

    searched = (outcome(point, first, number) for number, point in enumerate(points, start=1))
    best = max(searched, key=lambda found: _rank(found.metrics[problem.chooses]))
    outcomes = [best, *(outcome(best.trial, seed, number) for number, seed in enumerate(others, start=len(points) + 1))]
    values = {name: [found.metrics[name] for found in outcomes] for name in best.metrics}
    settings = {
        "learning_rates": list(rates),
        "batch_sizes": list(batch_sizes),
        "epochs": list(epochs),
        "seeds": list(options.seeds),
        "searched": "the grid with the first seed, its best point with the others; best epoch of each, all on the scored part",
        "chosen_by": problem.chooses,
        "chosen": asdict(best.trial) | {"best_epochs": [found.epoch for found in outcomes]},
        "max_train": options.max_train,
        "max_eval": options.max_eval,
        "max_length": max_length,
        "split_special_tokens": pretrained.tokenizer.split_special_tokens,
        "dropout": options.dropout,
        "dtype": computed_in(options),
        "optimizer": f"adamw, weight decay {WEIGHT_DECAY}, warmup {WARMUP:.0%}, linear",
        "ranks": ranks(),
    }
    means = {metric: statistics.fmean(numbers) for metric, numbers in values.items()}
    deviations = {metric: _deviation(numbers) for metric, numbers in values.items()} if others else None
    return Scored(name, means, examples.description | problem.baseline, settings, time.monotonic() - began, deviations)


def _deviation(numbers: list[float]) -> float:
    """Of a sample; NaN, on which statistics.stdev fails, where a number is NaN."""
    return statistics.stdev(numbers) if all(map(math.isfinite, numbers)) else math.nan


def _rank(value: float) -> float:
    """A value as it is compared: NaN is less than any number."""
    return -math.inf if math.isnan(value) else value
