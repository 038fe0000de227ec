"""The benchmarks run, at sizes whose figures say nothing."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.benchmarks.gpu import WAYS
from tests.benchmarks.measuring import MIB, cost_of, measured
from tests.data_prep.prose import made_up_texts
from tests.end_to_end.conftest import ROOT
from tests.ranks import run_ranks

pytestmark = pytest.mark.full
TOOLS = ROOT / ".venv-bench" / "bin"


def run(words, timeout):
    ended = subprocess.run(list(map(str, words)), cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    return ended.returncode, ended.stdout + ended.stderr


def sections(path):
    """Headings of what a part wrote, and the section of each."""
    return {each.splitlines()[0]: each for each in path.read_text().split("## ")[1:]}


def written(part, folder, *words, timeout):
    """The sections that a part writes at small sizes."""
    out = folder / f"{part}.md"
    status, said = run([sys.executable, "-m", f"tests.benchmarks.{part}", "--quick", "--out", out, *words], timeout)
    assert status == 0, said
    return sections(out)


@pytest.mark.timeout(1200)
def test_parts_write_their_tables(tmp_path):
    words = [sys.executable, "-m", "tests.benchmarks", "--out", tmp_path, "--quick", "--parts", "growth", "paper"]
    status, said = run(words, 1100)
    pages = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert status == 0, said + "".join(pages.values())
    assert pages.keys() == {"machine.md", "growth.md", "paper.md"}
    assert "| torch |" in pages["machine.md"]
    assert "| ours, W = 4 |" in pages["growth.md"] and "| grown, W = 4 |" in pages["growth.md"]
    assert "the model made whole are the same, bit for bit" in pages["growth.md"]
    assert ("Not measured: no mergekit-yaml" in pages["growth.md"]) == (not (TOOLS / "mergekit-yaml").exists())
    assert "12.9B to 174.6B on 128 nodes of 8 ranks" in pages["paper.md"]


@pytest.mark.timeout(700)
def test_text_is_prepared_beside_the_tools_that_are_there(tmp_path):
    text, out = tmp_path / "books.jsonl", tmp_path / "out"
    text.write_text("".join(json.dumps({"text": each}) + "\n" for each in made_up_texts(10, words=10_000)))
    words = [sys.executable, "-m", "tests.benchmarks", "--out", out, "--quick", "--parts", "data_prep", "--text", text]
    status, said = run(words, 600)
    assert status == 0, said + (out / "data_prep.md").read_text()
    tables = sections(out / "data_prep.md")
    assert list(tables) == [
        "Tokenizing",
        "MinHash signatures",
        "From text to shards",
        "The loader's start",
        "The loader, by how many shards there are",
        "The loader against a training step",
    ]
    assert "pieces of books.jsonl" in tables["Tokenizing"]
    assert "| datasketch |" in tables["MinHash signatures"]
    prepared = tables["From text to shards"]
    assert "| ours, 2 processes |" in prepared
    assert ("| datatrove, 2 processes |" in prepared) == (TOOLS / "python").exists()
    assert ("datatrove is not installed" in prepared) == (not (TOOLS / "python").exists())


@pytest.mark.timeout(700)
def test_training_is_measured(tmp_path):
    tables = written("training", tmp_path, timeout=600)
    assert len(tables) == 3
    assert "| ZeRO 3, 2 ranks: Trainer |" in tables["Our loop, a bare DeepSpeed loop, and the Hugging Face Trainer"]
    assert "| bert, bf16 | drawn |" in tables["Sub-model steps against their FLOPs"]
    assert "| sorted, DeepSpeed's own, wall |" in tables["Changing depths under ZeRO-3"]


@pytest.mark.timeout(400)
def test_the_start_is_measured_beside_a_bare_script(tmp_path):
    section = written("start", tmp_path, timeout=300)["From the command to the first step"]
    assert "ZeRO 3, 1 rank: ours, wall |" in section and "ZeRO 1, 2 ranks: bare, CPU |" in section


@pytest.mark.timeout(700)
def test_growing_costs_have_exponents(tmp_path):
    tables = written("scaling", tmp_path, timeout=600)
    assert len(tables) == 4 and all("exponent" in section and "nan" not in section for section in tables.values())


@pytest.mark.timeout(400)
def test_rates_are_tried_at_several_widths(tmp_path):
    tables = written("width_rates", tmp_path, "--optimizer", "muon", "--rules", "none", "mup", timeout=300)
    assert len(tables) == 4 and all("| 64 | " in section for section in tables.values())
    assert sum("Between the best rates" in section for section in tables.values()) == 2


@pytest.mark.timeout(400)
def test_the_gpus_part_runs_on_a_cpu(tmp_path):
    ways = ["zero1", "fair", "zero3", "bare-compiled"]
    tables = written("gpu", tmp_path, "--device", "cpu", "--ways", *ways, timeout=300)
    assert list(tables) == ["Steps on a device", "Growing into live partitions"]
    assert "ailed" not in (tmp_path / "gpu.md").read_text()
    for name, way in itertools.product(("gpt2", "bert"), ways):
        assert f"| {name} {{2, 64}}, 4 x 32: {WAYS[way].name} |" in tables["Steps on a device"]
    assert all(f"| {engine} |" in tables["Growing into live partitions"] for engine in ("fresh", "grown"))


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def one_killed():
    if os.environ["RANK"] == "1":
        killed()
    time.sleep(600)


@pytest.mark.timeout(300)
def test_a_process_that_is_killed_is_not_waited_for():
    with pytest.raises(RuntimeError, match="killed: ended with status -9 and no result"):
        measured(killed, timeout=600)
    with pytest.raises(RuntimeError, match="rank 1: ended with status -9 and no result"):
        run_ranks(one_killed, 2, timeout=600)


CHILD = "import sys, time; held = b'1' * 2**28; open(sys.argv[1], 'a').write('held'); time.sleep(float(sys.argv[2]))"


def parent(path, seconds):
    """A command whose child, in a session of its own, holds 256 MiB for so many seconds."""
    start = f"subprocess.Popen([sys.executable, '-c', {CHILD!r}, {str(path)!r}, '{seconds}'], start_new_session=True)"
    return [sys.executable, "-c", f"import subprocess, sys; {start}.wait()"]


def test_what_a_command_started_counts(tmp_path):
    cost = cost_of(parent(tmp_path / "path", 2))
    assert 256 * MIB < cost.peak < 356 * MIB and cost.seconds > 2


def test_what_a_command_started_is_gone_after_the_limit(tmp_path):
    path = tmp_path / "path"
    with pytest.raises(RuntimeError, match="no end within 30 s"):
        cost_of(parent(path, 600), timeout=30)
    assert path.read_text() == "held"
    assert not [one.pid for one in psutil.process_iter(["cmdline"]) if str(path) in (one.info["cmdline"] or [])]
