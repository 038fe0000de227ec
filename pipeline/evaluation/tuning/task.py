"""What a task is that models are fine-tuned on: its examples, its grid, and the problem that it poses to a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipeline.evaluation.tuning.examples import Example, TaskData

if TYPE_CHECKING:
    # They import torch, which no task's name needs.
    from pipeline.evaluation.tuning.model import Pretrained
    from pipeline.evaluation.tuning.problem import Problem


@dataclass(frozen=True, slots=True)
class Grid:
    """What is tried where nothing is chosen; the defaults are bert2BERT's for GLUE (Chen et al. 2022, section 4.1)."""

    learning_rates: tuple[float, ...] = (5e-6, 1e-5, 2e-5, 3e-5)
    batch_sizes: tuple[int, ...] = (32,)
    epochs: tuple[int, ...] = (4, 5, 10)
    max_length: int = 128


class TuningTask(Protocol[Example]):
    """A task that models are fine-tuned on; one file says all of it, and `registry.py` names it."""

    @property
    def name(self) -> str:
        """What it is called on the command line."""

    @property
    def grid(self) -> Grid:
        """What is tried where nothing is chosen."""

    def read(self, data: Sequence[Path]) -> TaskData[Example]:
        """Return the examples in the folders, else the hub's; raises UserError where a file or example cannot be used."""

    def problem(self, data: TaskData[Example], pretrained: Pretrained, max_length: int) -> Problem:
        """Bring examples, model and longest input together; raises UserError where they do not fit each other."""
