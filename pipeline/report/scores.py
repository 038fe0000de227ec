"""Tables of what tasks made of models."""

import json
import math
from collections.abc import Sequence

from data_prep.report.numbers import counted
from data_prep.report.parts import Grid, table
from pipeline.evaluation.scores import LOWER_IS_BETTER, Score
from pipeline.report import prose

Named = Sequence[tuple[str, Score]]
"""Scores and the runs that they are of."""

_NO_MATTER = frozenset({"chosen", "prefix", "ranks", "limit", "max_eval"})
"""Settings of a score that belong to the model or the machine, or that the number of examples says already."""


def score_tables(scores: Named) -> list[Grid]:
    """Return a table for each task, its data and how it was scored: models in rows, metrics in columns."""
    groups: dict[tuple[str, ...], list[tuple[str, Score]]] = {}
    for name, score in scores:
        data = json.dumps([score.data.get(key) for key in ("digest", "examples")])
        how = json.dumps({key: value for key, value in score.settings.items() if key not in _NO_MATTER}, sort_keys=True)
        groups.setdefault((score.task, data, how), []).append((name, score))
    tables = []
    for (task, _, _), found in groups.items():
        first = [scored[0][1] for (other, _, _), scored in groups.items() if other == task]
        keys = dict.fromkeys(key for score in first for key in score.settings if key not in _NO_MATTER)
        marks = [_examples(found[0][1])] if len({_examples(score) for score in first}) > 1 else []
        marks += [f"{key} {_setting(found[0][1], key)}" for key in keys if len({_setting(score, key) for score in first}) > 1]
        tables.append(_table(task + (f": {', '.join(marks)}" if marks else ""), found))
    return tables


def _table(title: str, found: Named) -> Grid:
    scores = [score for _, score in found]
    metrics = list(dict.fromkeys(metric for score in scores for metric in score.metrics))
    keys = list(dict.fromkeys(key for score in scores for key in score.settings))
    differ = [key for key in keys if len({_setting(score, key) for score in scores}) > 1]
    best = {metric: _best(metric, scores) for metric in metrics}
    rows = []
    for name, score in found:
        where = score.model if score.stage is None else f"{score.stage}, step {score.step:,}"
        row = {"model": f"{name}: {where}", "examples": _examples(score).split()[0] if "examples" in score.data else "–"}
        row |= {metric: _value(score, metric, best[metric]) for metric in metrics}
        settings = ", ".join(f"{key} {_setting(score, key)}" for key in differ)
        rows.append(row | ({"settings that differ": settings} if differ else {}))
    better = [f"{metric} {'lower' if metric in LOWER_IS_BETTER else 'higher'}" for metric in metrics]
    facts = {
        "examples": _examples(scores[0]),
        "remarks": list(dict.fromkeys(score.data["note"] for score in scores if score.data.get("note"))),
        "common": [f"{key} {_setting(scores[0], key)}" for key in keys if key not in differ],
        "better": better if any(value is not None for value in best.values()) else [],
        "deviations": any(score.deviations for score in scores),
    }
    return table(title, rows, ["settings that differ"], prose.lines("scores", "notes", scores[0].data, facts))


def _examples(score: Score) -> str:
    count = score.data.get("examples")
    return "an unknown number of examples" if count is None else counted(count, "example")


def _setting(score: Score, key: str) -> str:
    value = score.settings.get(key)
    return value if isinstance(value, str) else json.dumps(value)


def _best(metric: str, scores: Sequence[Score]) -> float | None:
    values = [value for score in scores if (value := score.metrics.get(metric)) is not None and math.isfinite(value)]
    if len(values) < 2:
        return None
    best = min(values) if metric in LOWER_IS_BETTER else max(values)
    # What reads the same is a tie for whoever reads it.
    return best if [_number(value) for value in values].count(_number(best)) == 1 else None


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) >= 1e4 else f"{value:.4f}"


def _value(score: Score, metric: str, best: float | None) -> str:
    value, deviation = score.metrics.get(metric), (score.deviations or {}).get(metric)
    if value is None:
        return "–"
    return ("best " if value == best else "") + _number(value) + ("" if deviation is None else f" ± {deviation:.4f}")
