"""The benchmarks run, at sizes whose figures say nothing."""

import subprocess
import sys

import pytest

from tests.end_to_end.conftest import ROOT


@pytest.mark.full
def test_parts_write_their_tables(tmp_path):
    words = [sys.executable, "-m", "tests.benchmarks", "--out", tmp_path, "--quick", "--parts", "growth", "paper"]
    ended = subprocess.run(list(map(str, words)), cwd=ROOT, capture_output=True, text=True, timeout=600)
    told = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert ended.returncode == 0, ended.stdout + ended.stderr + "".join(told.values())
    assert told.keys() == {"machine.md", "growth.md", "paper.md"}
    assert "| torch |" in told["machine.md"]
    assert "| ours, W = 4 |" in told["growth.md"] and "| grown, W = 4 |" in told["growth.md"]
    assert "12.9B to 174.6B on 128 nodes of 8 ranks" in told["paper.md"]
