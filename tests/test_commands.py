"""Every command reads and judges its command line before it imports what takes long, and says which interpreter to use."""

import gc
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

from data_prep.jobs.workers import on_one_node
from pipeline.common import starting
from pipeline.common.command import refusal
from pipeline.common.errors import UserError
from tests.pipeline.report.recorded_runs import Made

ROOT = Path(__file__).parents[1]
DATA_PREP = "data_prep"
COMMANDS = [*(f"launch/{name}.py" for name in ("pretrain", "grow", "evaluate", "report", "reproduce", "plan")), DATA_PREP]
WELL_FORMED = {
    "launch/pretrain.py": ["--ds_config", "ds_configs/zero3.json"],
    "launch/grow.py": ["--source", "small", "--format", "hf", "--out", "grown"],
    "launch/evaluate.py": ["--model", "small", "--task", "text:README.md"],
    "launch/report.py": ["run", "--out", "report.html"],
    "launch/reproduce.py": ["--suite", "gpt", "--budget", "cpu"],
    "launch/plan.py": ["--tokens", "5e6"],
    DATA_PREP: ["run", "data_prep/configs/python_docs.yaml"],
}

_CALLED = """
import runpy, sys
del sys.argv[0]
command = sys.argv[0]
found = runpy.run_path(command) if command.endswith(".py") else runpy.run_module(f"{command}.__main__")
try:
    status = found["main"]()
except SystemExit as left:
    status = left.code or 0
print("imported:", *({"torch", "transformers", "deepspeed"} & set(sys.modules)))
sys.exit(status)
"""


def ended(words: list[object], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run this interpreter to its end, in the project's folder if no other is named."""
    options = {"cwd": ROOT, "capture_output": True, "encoding": "utf-8", "timeout": 120} | options
    return subprocess.run([sys.executable, *map(str, words)], **options)


def called(command: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Call a command's `main` in a process of its own, which ends by saying what was imported."""
    return ended(["-c", _CALLED, command, *words], env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_these_are_all_the_commands():
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "launch").glob("*.py")} == set(COMMANDS) - {DATA_PREP}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_neither_torch_nor_transformers_nor_deepspeed(command):
    done = called(command, "--help")
    assert done.returncode == 0, done.stderr
    typed = command if command == DATA_PREP else f"python {command}"
    assert f"usage: {typed} " in done.stdout and done.stdout.splitlines()[-1] == "imported:"


def judged(tmp_path: Path, text: str, name: str = "ds.json") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("command", "words", "content", "sentence"),
    [
        ("launch/pretrain.py", ["--recipee", "x"], None, "unrecognized arguments: --recipee"),
        ("launch/pretrain.py", ["optimizer.lrr=1"], None, "command line: unknown key 'optimizer.lrr'; did you mean 'lr'?"),
        ("launch/pretrain.py", ["seed=x"], None, "command line: seed:"),
        ("launch/pretrain.py", ["--recipe", "nowhere.yaml"], None, "nowhere.yaml: no such file"),
        ("launch/pretrain.py", ["--ds_config", "nowhere.json"], None, "nowhere.json: no such file"),
        ("launch/pretrain.py", ["--ds_config"], '{"gradient_cliping": 1}', "unknown key 'gradient_cliping'"),
        ("launch/pretrain.py", ["--ds_config"], '{"steps_per_print": 0}', "steps_per_print: "),
        ("launch/pretrain.py", ["--ds_config"], "{", "not readable as JSON"),
        ("launch/pretrain.py", ["--mfu", "0.5"], None, "--mfu goes with --dry_run"),
        ("launch/pretrain.py", ["--dry_run", "--mfu", "40"], None, "--mfu 40.0 is not above 0 and up to 1"),
        ("launch/grow.py", ["--width", "wide"], None, "argument --width: invalid choice: 'wide'"),
        ("launch/grow.py", ["--target", "hidden_sizes=8"], None, "--target: unknown key 'hidden_sizes'"),
        ("launch/grow.py", ["--neighbours", "none"], None, "argument --neighbours: invalid choice"),
        ("launch/grow.py", ["--layers", "[0,"], None, "--layers: '[0,' is no value"),
        ("launch/grow.py", ["--world_size", "0"], None, "--world_size: 0 ranks hold nothing"),
        ("launch/evaluate.py", ["--task", "wikitext3"], None, "--task: no task 'wikitext3'; did you mean 'wikitext"),
        ("launch/evaluate.py", ["--task", "mrpcc"], None, "--task: no task 'mrpcc'; did you mean 'mrpc'?"),
        ("launch/evaluate.py", ["--epochs", "0"], None, "command line: epochs.0: "),
        ("launch/evaluate.py", ["--ds_config"], '{"aio": {"block_sizes": 1}}', "unknown key 'aio.block_sizes'"),
        ("launch/report.py", ["--layers", "a"], None, "argument --layers: invalid numbers value: 'a'"),
        ("launch/reproduce.py", ["--seeds", "0"], None, "--seeds 0 is not above 0"),
        ("launch/reproduce.py", ["--budget", "gpu", "--ablations"], None, "the suite has no ablations"),
        ("launch/plan.py", ["--target", "num_hidden_layer=3"], None, "--target: unknown key 'num_hidden_layer'"),
        ("launch/plan.py", ["--pilot", "2%"], None, "--pilot: name by --out where recipes and runs of pilots go"),
        ("launch/plan.py", ["--add", "runs"], None, "--add: name the record to add to"),
        (DATA_PREP, ["runs", "x.yaml"], None, "argument COMMAND: invalid choice: 'runs'"),
        (DATA_PREP, ["check"], "{output_dir: x, corpora: [{file: x}]}", "unknown key 'corpora.0.file'; did you mean 'files'?"),
        (DATA_PREP, ["run", "nowhere.yaml"], None, "nowhere.yaml: no such file"),
    ],
)
def test_a_mistyped_key_or_option_is_refused_before_torch_transformers_or_deepspeed_are_imported(
    command, words, content, sentence, tmp_path
):
    """A file of `content`, where there is one, is the last word; what else a command needs is well formed."""
    words = [*words, *([judged(tmp_path, content)] if content else [])]
    done = called(command, *([] if command == DATA_PREP else WELL_FORMED[command]), *words)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == "imported:\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_an_interpreter_without_packages_is_refused_in_one_sentence(command):
    words = ["-m", command] if command == DATA_PREP else [command]
    done = ended(["-S", "-E", *words, *WELL_FORMED[command]])
    assert done.returncode == 2, done.stderr
    assert "is not installed for this interpreter; " in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.fixture(autouse=True)
def unfrozen():
    """Hand back to the collector what a command that is started in this process keeps for good."""
    yield
    gc.unfreeze()


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module that a command would import, and return its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(text: str) -> str:
        name = f"work_{abs(hash(text))}"
        judged(tmp_path, text, f"{name}.py")
        return name

    return write


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("import not_installed.part", "the Python package not_installed is not installed for this interpreter"),
        ("from yaml import NoSuchLoader", "the Python package yaml is not of a version that works here"),
        ("import yaml.no_such_part", "the Python package yaml is not of a version that works here"),
    ],
)
def test_an_environment_that_lacks_a_package_or_has_another_version_is_refused(module, capsys, text, sentence):
    assert starting.start(lambda: None, module(text)) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_the_collector_looks_through_nothing_that_was_imported_and_works_afterwards(module):
    text = """
        import gc
        IMPORTED, ENABLED = ["imported"], gc.isenabled()
        def work(arguments):
            looked_through = gc.get_objects()
            return ENABLED, gc.isenabled(), [any(each is one for each in looked_through) for one in (IMPORTED, arguments)]
    """
    assert starting.start(lambda: [["read"]], module(dedent(text))) == (False, True, [False, False])
    later = ["made later"]
    assert any(each is later for each in gc.get_objects())


@pytest.mark.parametrize("error", [UserError("refused"), ImportError("no module", name="yaml"), KeyboardInterrupt()])
def test_the_collector_works_after_a_refusal(error, capsys):
    def parse() -> None:
        raise error

    assert starting.start(parse, "data_prep.commands") in (2, 130)
    assert gc.isenabled()


def test_a_fault_of_the_projects_own_imports_is_not_hidden(module):
    for text in ("import data_prep.no_such_module", "from pipeline.recipe import no_such_name"):
        with pytest.raises(ImportError):
            starting.start(lambda: None, module(text))


@pytest.mark.parametrize("text", ["raise KeyboardInterrupt", "def work(arguments): raise KeyboardInterrupt"])
def test_ctrl_c_is_told_in_one_sentence_whenever_it_comes(text, module, capsys):
    assert starting.start(lambda: None, module(text)) == 130
    assert capsys.readouterr().err == "interrupted; start the same command again\n"


def test_only_a_dry_run_of_a_growth_needs_no_place_to_write_to():
    words = ["--source", "nowhere", "--format", "hf"]
    done = called("launch/grow.py", *words)
    assert done.returncode == 2 and "--out: not given; name a directory" in done.stderr
    assert "--out" not in called("launch/grow.py", *words, "--target", "hidden_sizes=8", "--dry_run").stderr


def test_an_older_python_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(starting, "_PYTHON", (sys.version_info.major, sys.version_info.minor + 1))
    assert starting.start(lambda: pytest.fail("the command line is not looked at"), "data_prep.commands") == 2
    assert f"Python {sys.version_info.major}.{sys.version_info.minor + 1} or later is needed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("made", "prefix", "words"),
    [
        (True, "/usr", "start the command with {root}/.venv/bin/python, or run `source {root}/.venv/bin/activate` first"),
        (True, "{root}/.venv", "-m pip install --constraint constraints.txt --editable .` in {root}"),
        (False, "{root}/.venv", "run `make .venv` in {root}"),
        (False, "/usr", "run `make .venv` in {root}"),
        (False, "/somebodys/venv", "-m pip install --constraint constraints.txt --editable .` in {root}"),
        (None, "/usr", "install the project's wheel for it with all that it depends on"),
    ],
)
def test_the_remedy_is_what_this_interpreter_lacks(made, prefix, words, module, tmp_path, monkeypatch, capsys):
    """A Python of the system, the project's environment whole or half installed, another one, or no checkout at all."""
    (tmp_path / ".venv").mkdir()
    if made is not None:
        (tmp_path / "pyproject.toml").touch()
    if made:
        (tmp_path / ".venv" / "installed").touch()
    monkeypatch.setattr(starting, "_ROOT", tmp_path)
    monkeypatch.setattr(sys, "prefix", prefix.format(root=tmp_path))
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    assert starting.start(lambda: None, module("import not_installed")) == 2
    assert words.format(root=tmp_path) in capsys.readouterr().err


def test_ranks_are_refused_once(monkeypatch, capsys):
    def parse() -> None:
        raise UserError("wrong")

    slept = []
    monkeypatch.setattr(starting.time, "sleep", slept.append)
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        assert starting.start(parse, "data_prep.commands") == 2
    assert capsys.readouterr().err == "wrong\n" and len(slept) == 1


@pytest.mark.parametrize(
    ("environment", "judged_early"),
    [
        ({}, True),
        ({"WORLD_SIZE": "1", "RANK": "0"}, True),
        ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}, True),
        ({"WORLD_SIZE": "4", "LOCAL_SIZE": "4"}, True),
        ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, False),
        ({"WORLD_SIZE": "4"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, False),
    ],
)
def test_files_are_judged_early_where_all_ranks_read_the_same_ones(environment, judged_early, monkeypatch):
    """torchrun, Slurm and deepspeed say how many ranks a node has; with several nodes the ranks meet first."""
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "PMIX_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert on_one_node() is judged_early


ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
"""A locale whose encoding holds no other characters, and Python told to keep to it."""


def in_ascii(words: list[object], cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the ASCII locale; what it prints is taken for UTF-8."""
    environment = os.environ | ASCII | {"PYTHONPATH": str(ROOT)} | more
    environment.pop("PYTHONWARNDEFAULTENCODING", None)
    return ended(words, cwd=cwd, env=environment)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("launch/pretrain.py", ["--ds_config", "größe-日本.json"]),
        ("launch/grow.py", ["--source", "a", "--format", "hf", "--out", "b", "--layers", "größe-日本"]),
        ("launch/evaluate.py", ["--model", "a", "--task", "größe-日本"]),
        ("launch/report.py", ["größe-日本", "--out", "report.html"]),
        ("launch/reproduce.py", ["--suite", "größe-日本", "--budget", "cpu"]),
        (DATA_PREP, ["check", "größe-日本.yaml"]),
    ],
)
def test_names_are_read_and_printed_in_a_locale_that_does_not_hold_them(command, words, tmp_path):
    done = in_ascii([*(["-m", command] if command == DATA_PREP else [ROOT / command]), *words], tmp_path)
    assert done.returncode == 2 and "größe-日本" in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.slow
def test_a_report_is_written_of_runs_with_such_names(tmp_path):
    Made(tmp_path / "größe-日本").write()
    done = in_ascii([ROOT / "launch" / "report.py", "größe-日本", "--out", "seite-日本.html", "--csv", "csv"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "größe-日本" in (tmp_path / "seite-日本.html").read_text(encoding="utf-8") and "seite-日本.html" in done.stdout


@pytest.mark.slow
def test_data_of_such_text_is_prepared_and_printed_on_a_terminal_of_ascii(tmp_path):
    texts = [f"Der größte Hund saß vor Tür {number}. 日本語の文。\n\n" for number in range(60)]
    (tmp_path / "größe-日本.txt").write_text("".join(texts), encoding="utf-8")
    config = {
        "output_dir": "läufe",
        "corpora": [{"files": ["größe-*.txt"], "heldout_fraction": 0.1, "dedupe": "none"}],
        "tokenizer": {"vocab_size": 300},
    }
    (tmp_path / "größe.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    done = in_ascii(["-m", DATA_PREP, "run", "größe.yaml"], tmp_path)
    assert done.returncode == 0, done.stderr
    for encoding, text in (("utf-8", "größte"), ("ascii", r"gr\xf6\xdfte")):
        shown = in_ascii(["-m", DATA_PREP, "inspect", "läufe"], tmp_path, PYTHONIOENCODING=encoding)
        assert shown.returncode == 0 and text in shown.stdout, shown.stderr + shown.stdout


def test_what_cannot_begin_anew_names_the_variable_that_helps(module, monkeypatch):
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    monkeypatch.setattr(sys, "argv", ["not-this-process"])
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("this process is not the command itself"))
    assert starting.start(lambda: None, module("def work(arguments): return 0")) == 0
    with pytest.raises(UnicodeEncodeError) as error:
        "läufe".encode("ascii")
    assert refusal(error.value) == (
        "'läufe': the locale's encoding, ascii, has no such characters; set PYTHONUTF8=1 and start again"
    )
