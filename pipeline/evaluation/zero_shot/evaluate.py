"""What zero-shot tasks make of a model that was trained on none of them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.common.errors import UserError
from pipeline.evaluation.encoding import Encoder, longest_input
from pipeline.evaluation.registry import HARNESS, TUNING, check_task, zero_shot_task
from pipeline.evaluation.scores import Scored
from pipeline.evaluation.scoring import Scorer, score_rows
from pipeline.evaluation.zero_shot.task import Reader
from pipeline.families import Family


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


def check_zero_shot(name: str, family: Family, origin: str) -> None:
    """Raise UserError, which begins with `origin`, where a task is not zero-shot or cannot be put to the family's models."""
    check_task(name, origin)
    if name in TUNING:
        raise UserError(
            f"{origin}: {name} trains a copy of the model on it, which is not done during training; score it afterwards with "
            f"launch/evaluate.py --task {name}"
        )
    if name.startswith(HARNESS):
        raise UserError(f"{origin}: {name} is lm_eval's, which is not run during training; score it with launch/evaluate.py")
    if zero_shot_task(name).causal_only:
        check_causal(name, family, origin)


def check_causal(name: str, family: Family, origin: str) -> None:
    """Raise UserError where a masked model is to do what only a causal one can."""
    if family.objective == "mlm":
        raise UserError(
            f"{origin}: {name} asks what comes next, and {family.name} is a masked model, which says what stands inside a "
            "text; use wikitext2, ptb or text:FILE"
        )


def check_model(name: str, family: Family, encoder: Encoder, options: Options) -> None:
    """Raise UserError where a model cannot be put to a zero-shot task as it was asked for: family, tokenizer or window."""
    check_zero_shot(name, family, "--task")
    encoder.check(family)
    _reader(family, encoder, options, name)


def score_tasks(
    names: Sequence[str], scorer: Scorer, family: Family, encoder: Encoder, data: Sequence[Path] | None, options: Options
) -> list[Scored]:
    """Return what each of the zero-shot tasks makes of a model; a collective call.

    `data` are folders with the tasks' files; None where they are to come from the hub. Raises UserError, alike on every rank,
    naming the task, file or option that will not do.
    """
    for name in names:
        check_zero_shot(name, family, "--task")
    return [_score(name, scorer, family, encoder, data, options) for name in names]


def _score(
    name: str, scorer: Scorer, family: Family, encoder: Encoder, data: Sequence[Path] | None, options: Options
) -> Scored:
    task, began = zero_shot_task(name), time.monotonic()
    corpus = task.read(data).first(options.limit)
    title = f"{scorer.name}: {name}"
    posed = task.pose(corpus, _reader(family, encoder, options, title))
    if not posed.rows:
        raise UserError(f"{corpus.data['source']}: no token of it is scored; give a longer text, or score more of its tokens")
    sums = score_rows(scorer, posed.rows, options.batch_size, title)
    settings = {
        **corpus.settings,
        **posed.settings,
        "split_special_tokens": encoder.tokenizer.split_special_tokens,
        "limit": options.limit,
        "dtype": str(next(scorer.module.parameters()).dtype).removeprefix("torch."),
    }
    seconds = time.monotonic() - began
    return Scored(name, posed.metrics(sums), corpus.data | {"tokens": sums.tokens} | posed.data, settings, seconds)


def _reader(family: Family, encoder: Encoder, options: Options, title: str) -> Reader:
    usable = longest_input(family, encoder.config)
    window = options.window or usable
    if window > usable:
        raise UserError(f"--window: {window} is beyond the model's {usable} positions; name at most {usable}")
    masked = family.objective == "mlm"
    around = 2 if masked else 0
    if window <= around:
        raise UserError(f"--window: {window} positions have no space for a token between [CLS] and [SEP]; name 3 or more")
    inside = window - around
    stride = options.stride or max(1, inside // 2)
    if stride > inside:
        raise UserError(f"--stride: {stride} tokens are more than a window of {window} can score; name at most {inside}")
    return Reader(encoder, masked, window, stride, options.every, title)
