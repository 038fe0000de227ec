"""SQuAD as a problem: the first and the last token of the answer, in windows over the passage (Devlin et al. 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForQuestionAnswering, EvalPrediction, PreTrainedModel

from pipeline.common.errors import UserError
from pipeline.evaluation.tuning.examples import Question, TaskData
from pipeline.evaluation.tuning.metrics import exact_match, overlap
from pipeline.evaluation.tuning.model import Pretrained

_LONGEST_QUESTION = 64
_STRIDE = 128
"""Tokens that a window shares with the one before it."""
_LONGEST_ANSWER = 30
"""Tokens of an answer that is looked for."""
_SHORTEST_INPUT = 16
_BATCH = 512


@dataclass(frozen=True, slots=True)
class Window:
    """A question and a run of its passage."""

    question: int
    ids: np.ndarray
    types: np.ndarray
    characters: np.ndarray
    """For each token its first character in the passage and the one behind its last; -1 where it is not part of the passage."""
    start: int
    """The answer's first token; 0, which is `cls`, where the window does not hold it."""
    end: int


class Answering:
    """Questions for a model, cut into windows."""

    chooses = "f1"

    def __init__(self, data: TaskData, pretrained: Pretrained, max_length: int) -> None:
        if pretrained.family.objective == "clm":
            raise UserError(
                f"{pretrained.directory}: {pretrained.family.name} reads from left to right; squad wants a bert or roberta"
            )
        if max_length < _SHORTEST_INPUT:
            raise UserError(f"--max_length: {max_length} tokens hold no question and passage; name {_SHORTEST_INPUT} or more")
        pretrained.check_head(AutoModelForQuestionAnswering)
        self._pretrained = pretrained
        self._questions = data.dev[""]
        self.train: Sequence[Any] = windows(data.train, pretrained, max_length)
        self.dev: Sequence[Any] = windows(self._questions, pretrained, max_length)
        self.baseline: dict[str, float] = {}

    def model(self, dropout: float | None) -> PreTrainedModel:
        """Return the pre-trained model under a fresh head: a logit for first and last token each."""
        return self._pretrained.load(AutoModelForQuestionAnswering, dropout)

    def collate(self, items: Sequence[Window]) -> dict[str, Tensor]:
        """Return a batch, padded to its longest window."""
        columns = {"input_ids": [item.ids.tolist() for item in items]}
        if self._pretrained.segments:
            columns["token_type_ids"] = [item.types.tolist() for item in items]
        batch = self._pretrained.tokenizer.pad(columns, return_attention_mask=True, return_tensors="pt")
        return {
            **batch,
            "start_positions": torch.tensor([item.start for item in items]),
            "end_positions": torch.tensor([item.end for item in items]),
        }

    def score(self, outcome: EvalPrediction) -> dict[str, float]:
        """Return SQuAD's two metrics."""
        answers = best_answers(self._questions, self.dev, *outcome.predictions)
        pairs = [
            (answer, [text for _, text in question.answers]) for answer, question in zip(answers, self._questions, strict=True)
        ]
        return {
            "exact_match": float(np.mean([exact_match(answer, texts) for answer, texts in pairs])),
            "f1": float(np.mean([overlap(answer, texts) for answer, texts in pairs])),
        }


def windows(questions: Sequence[Question], pretrained: Pretrained, max_length: int) -> list[Window]:
    """Return the windows of all questions, in order; a question is cut so that it leaves space for the passage."""
    tokenizer = pretrained.tokenizer
    longest = min(_LONGEST_QUESTION, max_length // 4)
    made: list[Window] = []
    for begin in range(0, len(questions), _BATCH):
        batch = questions[begin : begin + _BATCH]
        asked = tokenizer(
            [item.question.strip() for item in batch],
            add_special_tokens=False,
            truncation=True,
            max_length=longest,
            return_offsets_mapping=True,
        )
        cut = [
            item.question.strip()[: offsets[-1][1] if offsets else 0]
            for item, offsets in zip(batch, asked["offset_mapping"], strict=True)
        ]
        encoded = tokenizer(
            cut,
            [item.context for item in batch],
            truncation="only_second",
            max_length=max_length,
            stride=min(_STRIDE, max_length // 4),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        for number, source in enumerate(encoded["overflow_to_sample_mapping"]):
            encoding = encoded[number]
            inside = np.array([sequence == 1 for sequence in encoding.sequence_ids])
            characters = np.where(inside[:, None], np.array(encoding.offsets), -1).astype(np.int32)
            ids, types = np.array(encoding.ids, np.int32), np.array(encoding.type_ids, np.int8)
            answer = _answer_tokens(characters, *batch[source].answers[0])
            made.append(Window(begin + source, ids, types, characters, *answer))
    return made


def _answer_tokens(characters: np.ndarray, first: int, text: str) -> tuple[int, int]:
    """The tokens that hold an answer's first and last character; 0, 0 where the window lacks one of them."""
    behind = first + len(text)
    starts = np.flatnonzero((characters[:, 0] <= first) & (first < characters[:, 1]))
    ends = np.flatnonzero((characters[:, 0] < behind) & (behind <= characters[:, 1]))
    return (int(starts[0]), int(ends[-1])) if len(starts) and len(ends) else (0, 0)


def best_answers(questions: Sequence[Question], cut: Sequence[Window], starts: np.ndarray, ends: np.ndarray) -> list[str]:
    """Return for each question the text whose first and last token have the greatest sum of logits in one window.

    Of all spans of at most 30 tokens of the passage, where the published recipes look among the 20 best of either end.
    """
    best = [(-np.inf, "")] * len(questions)
    for window, start, end in zip(cut, starts, ends, strict=True):
        inside = np.flatnonzero(window.characters[:, 0] >= 0)
        sums = start[inside][:, None] + end[inside][None, :]
        # The last token lies at or behind the first, and not too far.
        allowed = np.triu(np.ones_like(sums, bool)) & np.tril(np.ones_like(sums, bool), _LONGEST_ANSWER - 1)
        sums = np.where(allowed & np.isfinite(sums), sums, -np.inf)
        if not sums.size or sums.max() <= best[window.question][0]:
            continue
        first, last = np.unravel_index(sums.argmax(), sums.shape)
        begin, behind = window.characters[inside[first], 0], window.characters[inside[last], 1]
        best[window.question] = (float(sums.max()), questions[window.question].context[begin:behind])
    return [text for _, text in best]
