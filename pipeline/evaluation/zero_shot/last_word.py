"""Passages whose last word is predicted: LAMBADA (Paperno et al. 2016)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipeline.common.errors import UserError
from pipeline.evaluation.rows import Row, Sums, perplexity
from pipeline.evaluation.zero_shot.task import Corpus, Posed, Published, Reader, read_text


@dataclass(frozen=True, slots=True)
class Passage:
    """A context, and the word that is to be predicted behind it, with the space in front."""

    context: str
    target: str


class LastWord(Published[Passage]):
    """A task whose examples are passages: the target's perplexity, and how often the model would say it."""

    causal_only: ClassVar[bool] = True

    def pose(self, corpus: Corpus[Passage], reader: Reader) -> Posed:
        """Return a row for each passage, in its window as much of the context as there is space for."""
        contexts = reader.encoder.opened([passage.context for passage in corpus.examples])
        wholes = reader.encoder.opened([passage.context + passage.target for passage in corpus.examples])
        rows = []
        for number, (context, whole) in enumerate(zip(contexts, wholes, strict=True), start=1):
            targets = whole[len(context) :]
            context = context or [reader.encoder.prefix]
            if not targets or len(targets) > reader.window:
                raise UserError(
                    f"{corpus.data['source']}: example {number} has a last word of {len(targets)} tokens, and a window is "
                    f"{reader.window}; remove the example, or choose a larger window"
                )
            tokens = (context + targets)[-(reader.window + 1) : -1]
            rows.append(Row(tokens, range(len(tokens) - len(targets), len(tokens)), targets))
        normalization = "perplexity: a target, all its tokens together; accuracy: all its tokens right"
        return Posed(rows, _metrics, {"window": reader.window, "normalization": normalization}, {})


def _metrics(sums: Sums) -> dict[str, float]:
    return {"perplexity": perplexity(-sums.log_likelihood / sums.rows), "accuracy": sums.rows_right / sums.rows}


def passages_of(texts: list[str]) -> list[Passage]:
    """Cut texts as EleutherAI's lambada_openai does: the last word is what follows the last space."""
    passages = []
    for text in texts:
        context, space, word = text.rpartition(" ")
        # As there: tokens end where words do, and blanks belong to what follows them.
        passages.append(Passage(context.rstrip(), context[len(context.rstrip()) :] + space + word))
    return passages


def texts_of(path: Path) -> list[str]:
    """Return the texts of a file of JSON lines; raises UserError naming the line that has none with a last word."""
    texts = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f'{path}: line {number} is no object with a "text"; one JSON object a line is expected') from None
        # A space behind the last word would be what is predicted in its place.
        if not isinstance(text, str) or " " not in text.strip() or text != text.rstrip():
            raise UserError(
                f"{path}: the text of line {number} has no last word behind a context, or blanks behind it; correct it"
            )
        texts.append(text)
    return texts


LAMBADA = LastWord(
    "lambada",
    folders=("lambada", "lambada_openai", "lambada-openai"),
    files=("lambada_test.jsonl", "lambada_test_en.jsonl", "lambada.jsonl", "test.jsonl"),
    hub=("EleutherAI/lambada_openai", "default"),
    column="text",
    read_file=texts_of,
    examples=passages_of,
    settings={"target": "what follows the last space, with that space (lm_eval's lambada_openai)"},
)
