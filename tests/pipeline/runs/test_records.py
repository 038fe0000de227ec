"""What reads a run's records, with one key of them damaged at a time: a result, or a sentence."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline.common.errors import UserError
from pipeline.common.files import write_json
from pipeline.evaluation.scores import Score, read_scores, record
from pipeline.report import card
from pipeline.report.card import known_of_run, model_card
from pipeline.report.growths import explain
from pipeline.report.page import tiles, warnings
from pipeline.report.recorded import read_run
from pipeline.runs import RunPaths, records
from pipeline.runs.records import SummaryRecord, duplicates_of, read_recipe, read_record, reasons_of
from pipeline.training.run.summary import render
from tests.pipeline.growth.models import small_model
from tests.pipeline.report.recorded_runs import Made

CONFIG = small_model("gpt2").config

DAMAGED = (None, -5, "text", {"a": 1}, 1e400)
"""What a key may hold by accident; the last one is infinity."""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Iterator[RunPaths]:
    """A run with every kind of record, each with the keys that are not always there; its recipe is read once."""
    paths = RunPaths(Made(tmp_path_factory.mktemp("records") / "run", source_steps=5, steps=6, lost=2).write())
    certificate = json.loads(paths.certificate(1).read_text())
    certificate["measured"] |= {"tokens": "random", "dtype": "float64"}
    in_training = certificate["measured"] | {"dtype": "bfloat16", "grown_accuracy": 0.5}
    in_training |= {"rounding": {"loss": 0.1, "max_logit_difference": 0.2}}
    certificate |= {"in_training": in_training, "remarks": ["a remark"]}
    write_json(paths.certificate(1), certificate)
    write_json(paths.summary, json.loads(paths.summary.read_text()) | {"growths": [certificate], "missing_steps": [[3, 4]]})
    digests = {"config_digest": "c0", "tokenizer_digest": "t0"}
    data = {"source": "a.txt", "digest": "d0", "examples": 3, "note": "a note"}
    record(
        paths.scores,
        [Score("run", "m0", "full", 11, "lambada", {"accuracy": 0.5}, {"accuracy": 0.1}, data, {}, 1.0, **digests)],
    )
    recipe = read_recipe(paths)
    with pytest.MonkeyPatch.context() as patched:
        for reader in (card, records):
            patched.setattr(reader, "read_recipe", lambda _: recipe)
        yield paths


def read_card(run: RunPaths) -> None:
    model_card(known_of_run(run, CONFIG, "float32", "do it", None, 1, 11))


def read_summary(run: RunPaths) -> None:
    render(read_record(run.summary, SummaryRecord))


def read_report(run: RunPaths) -> None:
    explain(read_run(run.path), "run")


def read_standing(run: RunPaths) -> None:
    read = read_run(run.path)
    warnings(read)
    tiles(read)


def read_all_scores(run: RunPaths) -> None:
    for score in read_scores(run.scores):
        hash(score.replaces)
        score.to_json()


def places(content: Any, place: tuple = ()) -> Iterator[tuple]:
    """The paths to all values in nested objects and lists; of a list to its first one."""
    items = content.items() if isinstance(content, dict) else list(enumerate(content))[:1] if isinstance(content, list) else ()
    for key, value in items:
        yield (*place, key)
        yield from places(value, (*place, key))


def damaged(content: Any, place: tuple, value: Any) -> Any:
    """The same with another value in one place."""
    content = copy.deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return content


CASES: dict[str, list[Callable[[RunPaths], None]]] = {
    "certificates/00.json": [read_card, read_report],
    "summary.json": [read_summary, read_standing],
    "scores.jsonl": [read_card, read_all_scores],
    "metrics.jsonl": [read_card, read_standing],
    "lost.jsonl": [read_standing],
    "eval.jsonl": [read_card, read_standing],
    "data.json": [read_card, read_standing],
    "ds_config.json": [read_card, read_standing],
}


@pytest.mark.slow
@pytest.mark.parametrize(("file", "reader"), [(file, reader) for file, readers in CASES.items() for reader in readers])
def test_one_damaged_key_of_a_record_at_any_depth_is_read_or_refused(run, tmp_path, file, reader):
    path, faults = run.path / file, []
    before = path.read_text()
    lines = path.suffix == ".jsonl"
    content = json.loads(before.splitlines()[-1] if lines else before)
    reader(run)
    try:
        for place in places(content):
            for value in DAMAGED:
                text = json.dumps(damaged(content, place, value)) + "\n"
                path.write_text("".join(before.splitlines(keepends=True)[:-1]) + text if lines else text)
                try:
                    reader(run)
                except UserError:
                    pass
                except Exception as error:
                    faults.append(f"{'.'.join(map(str, place))} = {value!r}: {type(error).__name__}: {error}")
    finally:
        path.write_text(before)
    assert not faults, "\n".join(faults)


def test_what_certificates_of_earlier_versions_say_is_read():
    earlier = {"departures": ["layers are random"], "twins": ["ffn"]}
    assert [reason["cause"] for reason in reasons_of(earlier)] == ["layers are random"]
    assert duplicates_of(earlier) == ["ffn"]
    assert duplicates_of({"departures": [], "duplicates": ["heads"]}) == ["heads"]
