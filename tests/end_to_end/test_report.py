"""launch/report.py on a whole run."""

import csv
import os
import subprocess
import sys

from pipeline.cli.report import main
from tests.end_to_end.conftest import ROOT
from tests.pipeline.report.recorded_runs import Made


def report(*arguments: object) -> subprocess.CompletedProcess:
    words = [sys.executable, "launch/report.py", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_a_run_becomes_a_page_with_its_figures_and_rows(undisturbed, tmp_path):
    page, figures, rows = tmp_path / "report.html", tmp_path / "png", tmp_path / "csv"
    done = report(f"toy={undisturbed.run_dir}", "--out", page, "--png", figures, "--csv", rows, "--layers", 0, "--heads", 0)
    assert done.returncode == 0, done.stderr
    html = page.read_text()
    assert "The run has ended, after 22 steps." in html
    assert f"{undisturbed.evaluations[-1]['loss']:.4f}" in html
    assert "Attention of layer 0" in html
    names = {path.stem for path in figures.iterdir()}
    assert html.count('<svg class="drawing"') == len(names)
    assert {path.stem for path in rows.iterdir()} <= names
    with open(rows / "loss-tokens.csv", encoding="utf-8", newline="") as file:
        held_out = [float(row["loss"]) for row in csv.DictReader(file) if row["kind"] == "held-out"]
    assert held_out == [record["loss"] for record in undisturbed.evaluations]
    assert not list(tmp_path.rglob("*.partial"))


def test_what_attention_to_show_of_several_runs_is_refused(tmp_path, monkeypatch, capsys):
    runs = [str(Made(tmp_path / name, recorded=0).write()) for name in "ab"]
    monkeypatch.setattr(sys, "argv", ["report.py", *runs, "--out", str(tmp_path / "report.html"), "--layers", "0"])
    assert main() == 2
    assert "attention is shown in the report of a single run" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_what_is_no_run_ends_in_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    # In this process: another one would spend its time on importing.
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path), "--out", str(tmp_path / "report.html")])
    assert main() == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "not a run directory" in printed.err
    assert printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
