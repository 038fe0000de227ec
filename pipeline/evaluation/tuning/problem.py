"""What a task asks of a model: a head, inputs, labels and metrics."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor
from transformers import EvalPrediction, PreTrainedModel


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
