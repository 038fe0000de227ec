"""The zero-shot tasks: what each makes of a model that was trained on none of them."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.common.errors import UserError
from pipeline.common.progress import Meter
from pipeline.evaluation.encoding import Encoder
from pipeline.evaluation.perplexity import perplexity
from pipeline.evaluation.scoring import Row, Scorer, score_rows
from pipeline.evaluation.task_names import HARNESS, LAMBADA, TUNED, check_task
from pipeline.evaluation.texts import Corpus, read_corpus
from pipeline.evaluation.windows import causal_rows, masked_rows
from pipeline.families import Family, sizes_of

_ENCODED_AT_ONCE = 256
"""Documents."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a person may choose."""

    window: int | None = None
    """Positions that are read at once; as many as the model has, where not given."""
    stride: int | None = None
    """Tokens that each further window scores; half the window, where not given."""
    batch_size: int = 8
    limit: int | None = None
    """Examples (documents, passages) of each task, from the first on; all, where not given."""
    every: int = 1
    """Masked models: every so-many-th token is scored."""


class Scored(NamedTuple):
    """What a task made of a model."""

    task: str
    metrics: dict[str, float]
    data: dict[str, Any]
    settings: dict[str, Any]
    seconds: float


def check_zero_shot(task: str, family: Family, origin: str) -> None:
    """Raise UserError, which begins with `origin`, where a task is not zero-shot or cannot be put to the family's models."""
    check_task(task, origin)
    if task in TUNED:
        raise UserError(
            f"{origin}: {task} trains a copy of the model on it, which is not done amid training; score it afterwards with "
            f"launch/evaluate.py --task {task}"
        )
    if task.startswith(HARNESS):
        raise UserError(f"{origin}: {task} is lm_eval's, which is not run amid training; score it with launch/evaluate.py")
    check_family(task, family, origin)


def check_family(task: str, family: Family, origin: str) -> None:
    """Raise UserError where a masked model is to do what only a causal one can."""
    if family.objective == "mlm" and (task == LAMBADA or task.startswith(HARNESS)):
        raise UserError(
            f"{origin}: {task} asks what comes next, and {family.name} is a masked model, which says what stands amid a text; "
            "wikitext2, ptb or text:FILE would do"
        )


def check_model(task: str, family: Family, encoder: Encoder, options: Options) -> None:
    """Raise UserError where a model cannot be put to a zero-shot task as it was asked for: family, tokenizer or window."""
    check_family(task, family, "--task")
    encoder.check(family)
    _window(family, encoder, options)


def score_tasks(
    names: Sequence[str],
    scorer: Scorer,
    family: Family,
    encoder: Encoder,
    data: Sequence[Path] | None,
    options: Options,
    after_batch: Callable[[], None] = lambda: None,
) -> list[Scored]:
    """Return what each of the zero-shot tasks makes of a model; a collective call.

    `data` are folders with the tasks' files; None where they are to come from the hub. `after_batch` is called after each
    batch. Raises UserError, alike on every rank, naming the task, file or option that will not do.
    """
    for name in names:
        check_zero_shot(name, family, "--task")
    return [_score_task(name, scorer, family, encoder, read_corpus(name, data), options, after_batch) for name in names]


def _score_task(
    task: str,
    scorer: Scorer,
    family: Family,
    encoder: Encoder,
    corpus: Corpus,
    options: Options,
    after_batch: Callable[[], None],
) -> Scored:
    began = time.monotonic()
    corpus = corpus.first(options.limit)
    window, stride = _window(family, encoder, options)
    masked, title = family.objective == "mlm", f"{scorer.name}: {task}"
    if task == LAMBADA:
        rows, settings = _passage_rows(encoder, corpus, window), {"window": window}
    elif masked:
        rows = _masked_document_rows(encoder, _encoded(encoder, corpus, title), window, stride, options.every)
        settings = {"window": window, "stride": stride, "every": options.every}
    else:
        rows = _document_rows(encoder, _encoded(encoder, corpus, title), window, stride)
        settings = {"window": window, "stride": stride}
        settings["prefix"] = encoder.tokenizer.token(encoder.prefix)
    if not rows:
        raise UserError(f"{corpus.data['source']}: no token of it is scored; give a longer text, or score more of its tokens")
    sums = score_rows(scorer, rows, options.batch_size, after_batch, title)
    if task == LAMBADA:
        metrics = {"perplexity": perplexity(-sums.log_likelihood / sums.rows), "accuracy": sums.rows_right / sums.rows}
        settings["normalization"] = "perplexity: a target, all its tokens together; accuracy: all its tokens right"
    elif masked:
        metrics = {"pseudo_perplexity": perplexity(-sums.log_likelihood / sums.tokens), "accuracy": sums.right / sums.tokens}
        settings["normalization"] = "pseudo_perplexity: a token; each masked in turn, all others of its window seen"
    else:
        metrics = _perplexities(corpus, -sums.log_likelihood, sums.tokens)
        settings["normalization"] = "word_, byte_, bits_per_byte: of the original text; token_: of what the model reads"
    data = corpus.data | {"tokens": sums.tokens}
    if task != LAMBADA:
        data |= {"words": sum(document.words for document in corpus.examples)}
    dtype = str(next(scorer.module.parameters()).dtype).removeprefix("torch.")
    split = encoder.tokenizer.split_special_tokens
    shared = {"split_special_tokens": split, "limit": options.limit, "dtype": dtype}
    return Scored(task, metrics, data, corpus.settings | settings | shared, time.monotonic() - began)


def _window(family: Family, encoder: Encoder, options: Options) -> tuple[int, int]:
    usable = family.usable_positions(sizes_of(encoder.config))
    window = options.window or usable
    if window > usable:
        raise UserError(f"--window: {window} is beyond the model's {usable} positions; {usable} would do")
    around = 2 if family.objective == "mlm" else 0
    if window <= around:
        raise UserError(f"--window: {window} positions have no room for a token between [CLS] and [SEP]; 3 or more would do")
    room = window - around
    stride = options.stride or max(1, room // 2)
    if stride > room:
        raise UserError(f"--stride: {stride} tokens are more than a window of {window} can score; {room} would do")
    return window, stride


def _encoded(encoder: Encoder, corpus: Corpus, title: str) -> Iterator[list[int]]:
    """The ids of each of a corpus's documents."""
    with Meter(f"{title}: tokenizing", sum(document.bytes for document in corpus.examples)) as meter:
        for begin in range(0, len(corpus.examples), _ENCODED_AT_ONCE):
            documents = corpus.examples[begin : begin + _ENCODED_AT_ONCE]
            yield from encoder.encode([document.text for document in documents])
            meter.advance(sum(document.bytes for document in documents))


def _document_rows(encoder: Encoder, documents: Iterable[list[int]], window: int, stride: int) -> list[Row]:
    return [row for tokens in documents for row in causal_rows(tokens, encoder.prefix, window, stride)]


def _masked_document_rows(encoder: Encoder, documents: Iterable[list[int]], window: int, stride: int, every: int) -> list[Row]:
    cls_id, sep_id, mask_id = encoder.around()
    rows: list[Row] = []
    seen = 0
    for tokens in documents:
        # Counted through all documents: of many short ones, too, every so-many-th token is scored.
        rows += masked_rows(tokens, cls_id, sep_id, mask_id, window, stride, every, -seen % every)
        seen += len(tokens)
    return rows


def _passage_rows(encoder: Encoder, corpus: Corpus, window: int) -> list[Row]:
    contexts = encoder.opened([passage.context for passage in corpus.examples])
    wholes = encoder.opened([passage.context + passage.target for passage in corpus.examples])
    rows = []
    for number, (context, whole) in enumerate(zip(contexts, wholes, strict=True), start=1):
        targets = whole[len(context) :]
        context = context or [encoder.prefix]
        if not targets or len(targets) > window:
            raise UserError(
                f"{corpus.data['source']}: example {number} has a last word of {len(targets)} tokens, and a window is "
                f"{window}; remove the example, or choose a larger window"
            )
        tokens = (context + targets)[-(window + 1) : -1]
        rows.append(Row(tokens, range(len(tokens) - len(targets), len(tokens)), targets))
    return rows


def _perplexities(corpus: Corpus, loss: float, tokens: int) -> dict[str, float]:
    words, size = (sum(getattr(document, unit) for document in corpus.examples) for unit in ("words", "bytes"))
    return {
        "word_perplexity": perplexity(loss / words),
        "token_perplexity": perplexity(loss / tokens),
        "byte_perplexity": perplexity(loss / size),
        "bits_per_byte": loss / size / math.log(2),
    }
