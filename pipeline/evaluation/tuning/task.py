"""What a task is that models are fine-tuned on: its examples, its grid, and the problem that it poses to a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.evaluation.tuning.examples import Example, TaskData

if TYPE_CHECKING:
    # They import torch, which no task's name needs.
    from torch import Tensor
    from transformers import EvalPrediction, PreTrainedModel

    from pipeline.evaluation.tuning.model import Pretrained


@dataclass(frozen=True, slots=True)
class Grid:
    """What is tried where nothing is chosen; the defaults are bert2BERT's for GLUE (Chen et al. 2022, section 4.1)."""

    learning_rates: tuple[float, ...] = (5e-6, 1e-5, 2e-5, 3e-5)
    batch_sizes: tuple[int, ...] = (32,)
    epochs: tuple[int, ...] = (4, 5, 10)
    max_length: int = 128


class Problem(Protocol):
    """A task and a pre-trained model brought together."""

    train: Sequence[Any]
    """What is trained on, one item an example."""
    dev: Sequence[Any]
    chooses: str
    """The metric by which epochs and grid points are chosen; more is better."""
    baseline: dict[str, float]
    """What a score says in addition: `majority` and the part's ending, the accuracy of always saying its commonest class."""

    def model(self, dropout: float | None) -> PreTrainedModel:
        """Return the pre-trained model under a fresh head."""

    def collate(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """Return a batch with labels."""

    def score(self, outcome: EvalPrediction) -> dict[str, float]:
        """Return the metrics of predictions for the whole of `dev`, in order."""


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
