"""Every file that a run leaves, damaged in every way, under every command: made again and said, or refused in one sentence."""

import itertools
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.common.files import write_json
from pipeline.evaluation.scores import Score, record
from pipeline.report.page import warnings
from pipeline.report.recorded import read_run
from pipeline.runs import RunPaths
from pipeline.training.run.pretraining import Run
from tests.end_to_end.conftest import FP32

pytestmark = pytest.mark.timeout(300)

FILES = [
    ".lock",
    "recipe.yaml",
    "ds_config.json",
    "data.json",
    "checked.json",
    "metrics.jsonl",
    "eval.jsonl",
    "lost.jsonl",
    "scores.jsonl",
    "rewound.json",
    "summary.json",
    "certificates",
    "certificates/00.json",
    "checkpoints",
    "checkpoints/latest",
    "checkpoints/step-00000022",
    "checkpoints/step-00000022/files.json",
    "checkpoints/step-00000022/progress.json",
    "checkpoints/step-00000022/config.json",
    "model",
    "model/config.json",
    "model/ledger.json",
    "model/model.safetensors",
    "source_model",
    "source_model/config.json",
    "source_model/ledger.json",
]


def _replaced(path: Path, make: Callable[[Path], object]) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    make(path)


def _text(content: str) -> Callable[[Path], None]:
    return _bytes(content.encode())


def _bytes(content: bytes) -> Callable[[Path], None]:
    return lambda path: _replaced(path, lambda there: there.write_bytes(content))


def _truncated(path: Path) -> None:
    if path.is_file():
        os.truncate(path, path.stat().st_size // 2)
    else:
        _text("")(path)


def _lines(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Change each object of a file of JSON or JSON lines; of another file its text."""

    def work(path: Path) -> None:
        if path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
            changed = change(content)
            path.write_text(json.dumps(content if changed is None else changed), encoding="utf-8")
        elif path.suffix == ".jsonl":
            records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            for content in records:
                change(content)
            path.write_text("".join(json.dumps(content) + "\n" for content in records), encoding="utf-8")
        elif path.is_file():
            path.write_text("- 5\n", encoding="utf-8")

    return work


def _of_keys(change: Callable[[dict, str], object], depth: int = 2) -> Callable[[Path], None]:
    """Change each key of each object, and of the objects in it."""

    def work(content: dict, left: int = depth) -> None:
        for key in list(content):
            if isinstance(content[key], dict) and left > 1 and content[key]:
                work(content[key], left - 1)
            else:
                change(content, key)

    return _lines(work)


def _first_key(content: dict) -> None:
    content.pop(next(iter(content)))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "missing": lambda path: _replaced(path, lambda _: None),
    "empty": _text(""),
    "truncated": _truncated,
    "no JSON": _text("{ no: JSON, [\n\n"),
    "a list": _text("[1, 2]\n[3]\n"),
    "a number": _text("5\n"),
    "null": _text("null\n"),
    "an empty object": _text("{}\n"),
    "deep": _text("[" * 100_000 + "\n"),
    "no text": _bytes(b"\xff\xfe{\x00}\n" * 3),
    "zeros": _bytes(b"\0" * 4096 + b"\n"),
    "a key missing": _lines(_first_key),
    "all of another type": _of_keys(lambda content, key: content.update({key: ["x"]})),
    "all null": _of_keys(lambda content, key: content.update({key: None})),
    "all text": _of_keys(lambda content, key: content.update({key: "x"})),
    "all huge": _of_keys(lambda content, key: content.update({key: 10**400}), 3),
    "all negative": _of_keys(lambda content, key: content.update({key: -1}), 3),
    "all not a number": _of_keys(lambda content, key: content.update({key: float("nan")}), 3),
    "all empty": _of_keys(lambda content, key: content.update({key: {}})),
    "twice": lambda path: path.is_file() and path.write_bytes(path.read_bytes() * 2),
    "a directory": lambda path: _replaced(path, Path.mkdir),
    "a link to itself": lambda path: _replaced(path, lambda there: there.symlink_to(there)),
    "a pipe": lambda path: _replaced(path, os.mkfifo),
}


@pytest.fixture(scope="module")
def finished(undisturbed, tmp_path_factory) -> Path:
    """A finished run that has been through all that leaves a file."""
    path = shutil.copytree(undisturbed.run_dir, tmp_path_factory.mktemp("finished") / "run")
    run = RunPaths(path)
    last = json.loads(run.metrics.read_text().splitlines()[-1])
    run.lost.write_text("".join(json.dumps(last | {"step": last["step"] + number}) + "\n" for number in (1, 2)))
    write_json(run.rewound, {"step": 5, "rewinds": 1, "samples": {"32": 40}})
    metrics = {"word_perplexity": 30.0}
    record(run.scores, [Score("run", None, "full", 22, "text:a.txt", metrics, None, {"digest": "f00d"}, {"window": 8}, 1.0)])
    return path


@pytest.fixture(scope="module")
def summary(undisturbed) -> dict:
    return undisturbed.summary


@pytest.fixture
def started(programs, recipe, summary, monkeypatch, capsys, tmp_path):
    """Start a command on a run; return its status and what it said. Nothing is trained and nothing drawn."""
    monkeypatch.setattr("pipeline.report.page.to_svg", lambda plot: "")
    monkeypatch.setattr("pipeline.report.page.attention_section", lambda *_: {"reason": "not drawn here"})
    monkeypatch.setattr(Run, "_carry_out", lambda *_: summary)
    (tmp_path / "ds.json").write_text(json.dumps(FP32))
    (tmp_path / "a.txt").write_text("some words to score\n")
    # What the device can do is not measured, for each dry run.
    pretrain = ["--ds_config", str(tmp_path / "ds.json"), "--recipe", str(recipe()), "flops.peak_tflops=1"]

    def start(command: str, run: Path, *overrides: str) -> tuple[int, str]:
        shutil.rmtree(tmp_path / "grown", ignore_errors=True)
        words = {
            "finished": ["pretrain", *pretrain, f"run_dir={run}", *overrides],
            "resumed": ["pretrain", *pretrain, f"run_dir={run}", *overrides],
            "dry_run": ["pretrain", *pretrain, f"run_dir={run}", "--dry_run"],
            "report": ["report", str(run), "--out", str(tmp_path / "report.html")],
            "evaluate": ["evaluate", "--model", str(run), "--task", f"text:{tmp_path / 'a.txt'}", "--limit", "1"],
            "grow": ["grow", "--source", str(run), "--format", "hf", "--out", str(tmp_path / "grown")],
        }[command]
        if command == "resumed":
            for path in (RunPaths(run).summary, RunPaths(run).model):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        monkeypatch.setattr(sys, "argv", words)
        capsys.readouterr()
        try:
            status = programs(words[0])()
        except SystemExit as ended:
            status = ended.code
        except BaseException:
            return 1, traceback.format_exc()
        said = capsys.readouterr()
        return status, said.err if status else said.out

    return start


COMMANDS = ("finished", "resumed", "dry_run", "report", "evaluate", "grow")
ALL = [(damage, command) for damage in DAMAGES for command in COMMANDS]
SOME = 4
"""Of all damages under all commands `make test` tries so many of each file, other ones of the next; `make test-full` all."""


@pytest.mark.parametrize(
    ("file", "cases"),
    [
        *((file, [ALL[(place * 29 + number * 31) % len(ALL)] for number in range(SOME)]) for place, file in enumerate(FILES)),
        *(pytest.param(file, ALL, marks=pytest.mark.full) for file in FILES),
    ],
    ids=[*FILES, *(f"{file}: all" for file in FILES)],
)
def test_a_damaged_file_is_made_again_or_named_in_one_sentence(finished, started, tmp_path, file, cases):
    faults = []
    for number, (damage, command) in enumerate(cases):
        run = shutil.copytree(finished, tmp_path / str(number) / "run")
        (run / file).exists() or (run / file).touch()
        DAMAGES[damage](run / file)
        status, said = started(command, run)
        if status not in (0, 2) or (status == 2 and (said.count("\n") != 1 or Path(file).parts[0] not in said)):
            faults.append(f"{damage}, {command}, status {status}: {said}")
        shutil.rmtree(run.parent)
    assert not faults, "\n".join(faults)


# --- whose a directory is, and what is made again -------------------------------------------------


def test_a_run_that_has_forgotten_its_recipe_goes_on_with_that_of_its_checkpoint_alone(finished, started, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    before = {name: (run / name).read_text() for name in ("recipe.yaml", "ds_config.json", "data.json")}
    for name in before:
        (run / name).unlink()
    for override, key in (("seed=4", "seed"), ("optimizer.lr=0.1", "optimizer.lr"), ("train_batch_size=4", "train_batch_size")):
        for command in ("finished", "resumed"):
            status, said = started(command, run, override)
            assert status == 2 and f"belongs to a recipe that differs in {key};" in said and "source.path=" in said
    status, said = started("resumed", run)
    assert status == 0
    for name, content in before.items():
        assert f"{run / name}: no such file; it is written again from the checkpoint step-00000022" in said
        if name != "recipe.yaml":
            assert json.loads((run / name).read_text()) == json.loads(content)


def test_another_runs_checkpoint_is_not_taken(finished, started, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    data = json.loads((run / "data.json").read_text())
    write_json(run / "data.json", data | {"run": "0123456789abcdef"})
    status, said = started("resumed", run)
    assert status == 2 and "step-00000022: belongs to another run than" in said and f"run id {data['run']}" in said


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("model", "missing"),
        ("source_model", "missing"),
        *itertools.product(
            ["model/model.safetensors", "model/tokenizer.model", "model/ledger.json", "source_model/config.json"],
            ["missing", "truncated", "a directory"],
        ),
    ],
)
def test_what_a_finished_run_exported_is_looked_at(finished, started, tmp_path, monkeypatch, file, damage):
    run = shutil.copytree(finished, tmp_path / "run")
    # A card is for people to write on.
    (run / "model" / "README.md").write_text("mine")
    assert started("finished", run)[0] == 0
    DAMAGES[damage](run / file)
    exported = []
    summary = json.loads((finished / "summary.json").read_text())
    monkeypatch.setattr(Run, "_carry_out", lambda run, *_: exported.append(run) or summary)
    status, said = started("finished", run)
    if file.startswith("source_model"):
        assert status == 0 and not exported
        assert f"warning: {run / file}: " in said and "; it is not made again" in said and "after training" in said
        return
    assert status == 0 and len(exported) == 1
    assert f"{run / file}: " in said and "the model is exported again from the checkpoint step-00000022" in said
    shutil.rmtree(run / "checkpoints")
    status, said = started("finished", run)
    assert status == 2 and f"{run / file}: " in said and "there is no checkpoint any more" in said


def test_a_model_that_was_removed_is_there_again_and_steps_that_are_missing_are_said(undisturbed, launch, recipe, tmp_path):
    run = RunPaths(shutil.copytree(undisturbed.run_dir, tmp_path / "run"))
    shutil.rmtree(run.model)
    lines = run.metrics.read_text().splitlines(keepends=True)
    run.metrics.write_text("".join(lines[:2] + lines[4:-1]))
    again = launch(recipe()).finish()
    for words in (
        f"{run.model}: missing; the model is exported again from the checkpoint step-00000022",
        f"warning: {run.metrics}: lacks the steps 3 to 4, 22;",
        "warning: metrics.jsonl lacks the steps 3 to 4, 22: speeds are those of the others",
    ):
        assert words in again.output
    for path in (undisturbed.run_dir / "model").iterdir():
        if path.name != "README.md":
            assert (run.model / path.name).read_bytes() == path.read_bytes()
    assert again.summary["losses"] == undisturbed.summary["losses"]
    recorded = read_run(run.path)
    assert recorded.ended and recorded.missing == [(3, 4), (22, 22)]
    assert recorded.final_loss is None
    assert any("metrics.jsonl lacks the steps 3 to 4, 22" in line for line in warnings(recorded))
