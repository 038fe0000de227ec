"""GLUE's tasks as problems: a class or a score for a text or a pair of texts."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, EvalPrediction, PreTrainedModel

from pipeline.common.errors import UserError
from pipeline.evaluation.tuning.examples import TaskData, Text
from pipeline.evaluation.tuning.glue import Glue
from pipeline.evaluation.tuning.metrics import METRICS
from pipeline.evaluation.tuning.model import Pretrained


class Classification:
    """A GLUE task for a model; the parts of `dev` stand end to end."""

    def __init__(self, task: Glue, data: TaskData, pretrained: Pretrained, max_length: int) -> None:
        framing = pretrained.tokenizer.num_special_tokens_to_add(pair=True)
        if max_length < framing + 2:
            raise UserError(f"--max_length: {max_length} tokens hold no pair of texts; name {framing + 2} or more")
        pretrained.check_head(AutoModelForSequenceClassification)
        self._task = task
        self._pretrained = pretrained
        self._max_length = max_length
        self._parts = {suffix: len(part) for suffix, part in data.dev.items()}
        self.train: Sequence[Any] = data.train
        self.dev: Sequence[Any] = list(chain(*data.dev.values()))
        self.chooses = task.metrics[0] + task.dev[0][0]
        self.baseline: dict[str, float] = {}
        for suffix, part in data.dev.items() if task.labels is not None else ():
            ((_, commonest),) = Counter(item.label for item in part).most_common(1)
            self.baseline[f"majority{suffix}"] = commonest / len(part)

    def model(self, dropout: float | None) -> PreTrainedModel:
        """Return the pre-trained model under a fresh head: a logit a class, or one number."""
        labels = self._task.labels
        return self._pretrained.load(
            AutoModelForSequenceClassification,
            dropout,
            num_labels=1 if labels is None else len(labels),
            problem_type="regression" if labels is None else "single_label_classification",
        )

    def collate(self, items: Sequence[Text]) -> dict[str, Tensor]:
        """Return a batch, padded to its longest text, which is cut at the longest of the two where it is too long."""
        pairs = None if items[0].pair is None else [item.pair for item in items]
        batch = self._pretrained.tokenizer(
            [item.text for item in items],
            pairs,
            truncation="longest_first",
            max_length=self._max_length,
            padding=True,
            return_token_type_ids=self._pretrained.segments,
            return_tensors="pt",
        )
        kind = torch.float32 if self._task.labels is None else torch.int64
        return {**batch, "labels": torch.tensor([item.label for item in items], dtype=kind)}

    def score(self, outcome: EvalPrediction) -> dict[str, float]:
        """Return each part's metrics."""
        predictions, labels = np.asarray(outcome.predictions), np.asarray(outcome.label_ids)
        predictions = predictions[:, 0] if self._task.labels is None else predictions.argmax(axis=1)
        scores: dict[str, float] = {}
        begin = 0
        for suffix, length in self._parts.items():
            part = slice(begin, begin + length)
            scores |= {name + suffix: float(METRICS[name](labels[part], predictions[part])) for name in self._task.metrics}
            begin += length
        return scores
