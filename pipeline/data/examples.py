"""What a corpus gives to a batch: examples by number, as columns."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from pipeline.data.objectives import Key, Objective
from pipeline.data.windows import Windows

Columns = dict[str, np.ndarray]
"""The fields of `Batch` that there are, int64, one row an example."""


class Examples(Protocol):
    """The examples of one corpus's split."""

    def __len__(self) -> int:
        """Return how many there are: those of an epoch."""
        ...

    def read(self, numbers: np.ndarray, keys: Sequence[Key]) -> Columns:
        """Return examples by number; what is drawn for one is a function of its key alone."""
        ...


class WindowExamples:
    """Windows of tokens through an objective; `within_documents` adds their documents."""

    def __init__(self, windows: Windows, objective: Objective, *, within_documents: bool) -> None:
        self._windows = windows
        self._objective = objective
        self._within_documents = within_documents

    def __len__(self) -> int:
        return len(self._windows)

    def read(self, numbers: np.ndarray, keys: Sequence[Key]) -> Columns:
        """Return the columns input_ids and labels, and documents where attention stays within them: [windows, S] each."""
        inputs, labels = self._objective.examples(self._windows.read(numbers), keys)
        columns = {"input_ids": inputs, "labels": labels}
        if self._within_documents:
            columns["documents"] = self._objective.inputs_documents(self._windows.documents(numbers))
        return columns
