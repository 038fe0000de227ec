"""SQuAD 1.1: questions about passages, answered by a run of the passage's text (Rajpurkar et al. 2016)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.common.errors import UserError
from pipeline.evaluation.tuning.examples import Question, TaskData, digest_of, find, load_hub, split
from pipeline.evaluation.tuning.task import Grid, Problem

if TYPE_CHECKING:
    # They import torch, which no task's name needs.
    from pipeline.evaluation.tuning.model import Pretrained

_HUB = "rajpurkar/squad"


class Squad:
    """SQuAD 1.1, with the grid of Devlin et al. (2019)."""

    name = "squad"
    grid = Grid((3e-5,), (16,), (4,), 384)

    def problem(self, data: TaskData[Question], pretrained: Pretrained, max_length: int) -> Problem:
        """Bring questions, model and longest input together; raises UserError where they do not fit each other."""
        from pipeline.evaluation.tuning.spans import Answering

        return Answering(data, pretrained, max_length)

    def read(self, data: Sequence[Path]) -> TaskData[Question]:
        """Return the questions in the folders, else the hub's; raises UserError where a file or question cannot be used.

        Where one of the two files is not there, the other one's articles are shared out.
        """
        train, dev = (find(data, f"*{part}-v1.1.json") for part in ("train", "dev"))
        if train is None and dev is None:
            wanted = "train-v1.1.json and dev-v1.1.json"
            loaded, digest = load_hub("squad", wanted, data, ("train", "validation"), _HUB)
            to_train, to_score = map(_from_hub, loaded)
            return TaskData(to_train, {"": to_score}, _HUB, digest)
        paths = [path for path in (train, dev) if path is not None]
        digest = digest_of(paths)
        source = ", ".join(path.name for path in paths)
        questions, *others = map(read_questions, paths)
        if others:
            return TaskData(questions, {"": others[0]}, source, digest)
        to_train, to_score, note = split(questions, lambda question: question.article, paths[0], "articles")
        return TaskData(to_train, {"": to_score}, source, digest, (note,))


SQUAD = Squad()


def read_questions(path: Path) -> list[Question]:
    """Return a file's questions; raises UserError where it is no SQuAD 1.1, naming the question."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({error}); put the file there as SQuAD spreads it") from None
    questions: list[Question] = []
    try:
        for article in content["data"]:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    answers = tuple((answer["answer_start"], answer["text"]) for answer in asked["answers"])
                    questions.append(Question(asked["id"], article["title"], asked["question"], paragraph["context"], answers))
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not laid out as SQuAD 1.1 ({type(error).__name__} {error} behind {len(questions)} questions); "
            "put the file there as SQuAD spreads it"
        ) from None
    if not questions:
        raise UserError(f"{path}: holds no questions; put the file there as SQuAD spreads it")
    for question in questions:
        if not question.answers:
            raise UserError(f"{path}: question {question.id} has no answer; use version 1.1, in which each has one")
        for start, text in question.answers:
            if not text or question.context[start : start + len(text)] != text:
                raise UserError(f"{path}: question {question.id} has its answer {text!r} not at character {start}; correct it")
    return questions


def _from_hub(part: Any) -> list[Question]:
    questions = []
    for row in part:
        answers = tuple(zip(row["answers"]["answer_start"], row["answers"]["text"], strict=True))
        questions.append(Question(row["id"], row["title"], row["question"], row["context"], answers))
    return questions
