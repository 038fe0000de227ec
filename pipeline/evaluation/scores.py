"""Scores: what a task made of a model, one JSON object a line."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.common.files import write_atomically
from pipeline.runs import JsonLines
from pipeline.runs.records import ScoreRecord

_PERPLEXITIES = ("perplexity", "pseudo_perplexity", "token_perplexity", "word_perplexity", "byte_perplexity")
LOWER_IS_BETTER = frozenset({"loss", "bits_per_byte", *_PERPLEXITIES})
"""Metrics of which less is better; of all others more is."""


class Scored(NamedTuple):
    """What a task made of a model."""

    task: str
    metrics: dict[str, float]
    data: dict[str, Any]
    settings: dict[str, Any]
    seconds: float
    deviations: dict[str, float] | None = None
    """Standard deviations over seeds, of some of the metrics; None where there was one computation."""


@dataclass(frozen=True, slots=True)
class Score:
    """What one task made of one model."""

    model: str
    """The directory, as it was named."""
    model_digest: str | None
    """`pipeline.growth.inspection.inspect` of its weights; None of a model that was scored during its training."""
    stage: str | None
    """The stage of the run that the model belongs to, "source" for its source; None where it belongs to none."""
    step: int | None
    """The run's step, likewise."""
    task: str
    metrics: dict[str, float]
    deviations: dict[str, float] | None
    """Standard deviations over seeds, of some of the metrics; None where there was one computation."""
    data: dict[str, Any]
    """`source` (file or hub name), `digest`, `examples`, `note`."""
    settings: dict[str, Any]
    """What was chosen: window, stride, normalization; grid, seeds, ..."""
    seconds: float
    config_digest: str | None = None
    """Of the model's configuration, which says what is computed with the weights; None in files that do not have it yet."""
    tokenizer_digest: str | None = None
    """Of the tokenizer's files; None likewise."""

    def to_json(self) -> dict[str, Any]:
        """This score as an object of JSON; numbers that are not finite become null."""
        return asdict(self) | {"metrics": _finite(self.metrics), "deviations": self.deviations and _finite(self.deviations)}

    @classmethod
    def from_json(cls, record: ScoreRecord) -> "Score":
        """The score that an object describes; keys beyond a score's own are left out."""
        known: dict[str, Any] = {name: value for name, value in record.items() if name in cls.__dataclass_fields__}
        known["metrics"] = _numbers(record["metrics"])
        known["deviations"] = record["deviations"] and _numbers(record["deviations"])
        return cls(**known)

    @property
    def replaces(self) -> tuple[object, ...]:
        """What two scores have in common of which the later one stands: all that a score depends on.

        That is the model (weights, configuration, tokenizer), its place in a run, task, data and settings. Where the weights
        have no digest the directory stands for them; else it may have been moved.
        """
        model = self.model if self.model_digest is None else None
        digests = (self.model_digest, self.config_digest, self.tokenizer_digest)
        # Where the data lay is no part of what it is.
        data = {key: value for key, value in self.data.items() if key != "source"}
        # As they stand in a file: there a tuple is a list.
        return (model, self.stage, self.step, *digests, self.task, json.dumps([data, self.settings], sort_keys=True))


def read_scores(path: Path) -> list[Score]:
    """Return a file's scores, none where it is absent; a last line that a kill cut short does not count.

    Raises UserError, which names the line, where one is no score.
    """
    return [Score.from_json(record) for record in JsonLines(path, ScoreRecord).read()]


def record(path: Path, scores: Sequence[Score]) -> None:
    """Append scores to a file, in place of the ones that they replace (`Score.replaces`); the file is whole at any instant.

    Of no scores no file is made. Raises UserError as `read_scores` does.
    """
    kept = {score.replaces: score for score in read_scores(path)}
    for score in scores:
        kept.pop(score.replaces, None)
        kept[score.replaces] = score
    if not scores:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(json.dumps(score.to_json()) + "\n" for score in kept.values()))


def table(scores: Sequence[Score]) -> str:
    """Return scores as lines of text: model, task, metric, value and, where there is one, deviation.

    Below stands what is to be known of a task's data: what part of it was scored, and what always saying one class gets.
    """
    rows = []
    for score in scores:
        model = score.model if score.step is None else f"{score.model} (step {score.step})"
        for name, value in score.metrics.items():
            deviation = (score.deviations or {}).get(name)
            shown = "" if deviation is None else f" +- {deviation:.4f}"
            rows.append((model, score.task, name, f"{value:.4g}" if abs(value) >= 1e4 else f"{value:.4f}", shown))
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{model:<{widths[0]}}  {task:<{widths[1]}}  {metric:<{widths[2]}}  {value:>{widths[3]}}{deviation}"
        for model, task, metric, value, deviation in rows
    ]
    return "\n".join([*lines, *dict.fromkeys(f"{score.task}: {note}" for score in scores for note in _notes(score))])


def _notes(score: Score) -> list[str]:
    shares = [(name, value) for name, value in score.data.items() if name.startswith("majority")]
    note = score.data.get("note")
    return ([] if not note else [note]) + [f"{name} (always the commonest class): {value:.4f}" for name, value in shares]


def _finite(numbers: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def _numbers(record: dict[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in record.items()}
