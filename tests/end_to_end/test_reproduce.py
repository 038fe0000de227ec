"""launch/reproduce.py from its command line to its results, on runs that are made up."""

import json
import shutil
import sys

import pytest
import yaml

from pipeline.cli import reproduce
from pipeline.flops.counts import PARTS, StepFlops
from pipeline.flops.ledger import Ledger
from pipeline.reproduction import runner
from tests.documentation import blocks
from tests.end_to_end.conftest import ROOT
from tests.pipeline.report.recorded_runs import Made
from tests.pipeline.reproduction.test_progressive import SUITE


@pytest.fixture
def pretended(tmp_path, monkeypatch):
    folder = tmp_path / "templates"
    spent = Ledger()
    spent.add("full", StepFlops(*[dict.fromkeys(PARTS, 10**9) for _ in range(2)]))
    Made(folder / "scratch", scratch=True).write()
    Made(folder / "grown", given="small", inherited=spent).write()
    monkeypatch.setattr(runner, "_PRETRAIN", (str(ROOT / "tests" / "pipeline" / "reproduction" / "pretend.py"),))
    monkeypatch.setattr(runner, "_POLL_SECONDS", 0.02)
    monkeypatch.setenv("PRETEND", str(folder))
    suites(monkeypatch, tmp_path, ("submodels",))
    return folder


def suites(monkeypatch, folder, ablations: tuple[str, ...]) -> None:
    """Leave of the suite what reports are soon written of."""
    suite = yaml.safe_load((ROOT / "launch" / "suites" / "gpt_cpu.yaml").read_text(encoding="utf-8"))
    suite["methods"] = {name: suite["methods"][name] for name in ("scratch", "aki", "bert2bert", "nai")}
    suite["ablations"] = {name: suite["ablations"][name] for name in ablations}
    (folder / "gpt_cpu.yaml").write_text(yaml.safe_dump(suite, sort_keys=False), encoding="utf-8")
    monkeypatch.setattr(reproduce, "_SUITES", folder)


def reproduced(monkeypatch, out, *arguments: str) -> int:
    (words,) = (words for block in blocks("bash") if block.page == "docs/how-to/compare.md" for words in block.commands)
    monkeypatch.setattr(sys, "argv", [*words[1:], "--out", str(out), *arguments])
    return reproduce.main()


def test_a_suite_ends_in_a_table_and_a_report_and_goes_on_with_more_seeds(pretended, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert reproduced(monkeypatch, out, "--seeds", "1", "--ablations") == 0, capsys.readouterr().err
    folder = out / "gpt-cpu"
    started = (pretended / "started").read_text().split()
    assert started[0].startswith("sweep-")
    assert len(started) == len(set(started))
    of_methods = (folder / "results.md").read_text().split("| held-out loss after")[0]
    rows = {row.split("|")[1].strip(): row.split("|") for row in of_methods.splitlines() if "|" in row}
    assert rows["from scratch"][2].strip() == "1"
    # The made-up grown run begins lower and falls alike: it saves something, of which a part went into its source.
    saved, with_source = (float(rows["AKI"][column].split("%")[0].replace("−", "-")) for column in (3, 5))
    assert 0 < with_source < saved < 100
    assert "from scratch" in (folder / "report.html").read_text()
    assert (folder / "figures" / "compare-flops.png").exists()
    ablation = (folder / "submodels" / "results.md").read_text()
    assert "| AKI, two-stage, E_b = 20 | 1 |" in ablation
    assert "| AKI | 1 |" in ablation
    assert "NAI" not in ablation
    assert "E_b = 20" not in of_methods

    assert reproduced(monkeypatch, out, "--seeds", "2") == 0
    later = (pretended / "started").read_text().split()[len(started) :]
    assert later
    assert all(name.endswith("seed2") for name in later)
    assert "| from scratch | 2 |" in (folder / "results.md").read_text()


def test_runs_begun_on_other_text_are_refused(pretended, tmp_path, monkeypatch, capsys):
    assert reproduced(monkeypatch, tmp_path, "--seeds", "1") == 0
    text = tmp_path / "text.txt"
    shutil.copy(ROOT / "README.md", text)
    assert reproduced(monkeypatch, tmp_path, "--seeds", "1", "--text", str(text)) == 2
    assert "name another directory with --out" in capsys.readouterr().err


def test_ablations_of_a_suite_that_has_none_are_refused(tmp_path, monkeypatch, capsys):
    suites(monkeypatch, tmp_path, ())
    assert reproduced(monkeypatch, tmp_path / "out", "--ablations") == 2
    assert "gpt_cpu.yaml: the suite has no ablations; leave --ablations out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_progressive_suite_takes_shared_steps_once_and_ends_in_a_table_by_ends(pretended, tmp_path, monkeypatch, capsys):
    scratch, copied, random = (SUITE["methods"][name] for name in ("scratch", "copied", "random"))
    named = {"scratch": scratch, "copied": copied, "random": {key: random[key] for key in random if key != "rates"}}
    suite = SUITE | {"methods": named, "horizons": [1]}
    (tmp_path / "progressive_cpu.yaml").write_text(yaml.safe_dump(suite, sort_keys=False), encoding="utf-8")
    words = ["reproduce.py", "--suite", "progressive", "--budget", "cpu", "--seeds", "1", "--minutes", "30"]
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(tmp_path / "out")])
    assert reproduce.main() == 0, capsys.readouterr().err
    started = (pretended / "started").read_text().split()
    shared = [place for place, name in enumerate(started) if name.startswith("trunk-")]
    swept = [place for place, name in enumerate(started) if name.startswith("sweep-")]
    # Both methods begin with one layer: at each rate of the sweep, and with the rate that each has from there.
    assert len(shared) == 3 and max(shared[:2]) < min(swept) and max(swept) < shared[2]
    # Of each method the longest run first: that it ended with scratch's loss is why there is a shorter one.
    finals = [name for name in started if name.endswith("seed1")]
    assert sorted(finals[:3]) == ["copied-at0.8-seed1", "random-at0.5-seed1", "scratch-seed1"]
    assert finals[3:] == ["copied-at0.5-seed1"]
    folder = tmp_path / "out" / "progressive-cpu"
    written = (folder / "results.md").read_text()
    assert "with shared steps taken once" in written
    assert "| copied | 1 |" in written and "| copied, 80% |" in written
    assert "Where runs end" in (folder / "report.html").read_text()
    assert [json.loads(line)["method"] for line in (folder / "runs.jsonl").read_text().splitlines()]

    # Elsewhere the same suite runs none of them again; with a method that fails, what has ended is there to go on from.
    started = (pretended / "started").read_text()
    known = ["--known", str(folder / "ends.jsonl")]
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(tmp_path / "elsewhere"), *known])
    assert reproduce.main() == 0, capsys.readouterr().err
    assert (pretended / "started").read_text() == started
    elsewhere = tmp_path / "elsewhere" / "progressive-cpu"
    # Which steps trials shared is not known of those of elsewhere.
    own = "; with shared steps taken once"
    assert (elsewhere / "results.md").read_text() == written.split(own)[0] + written.split(own)[1].partition(" times")[2]
    failing = suite | {"methods": named | {"fails": named["copied"] | {"title": "fails"}}}
    (tmp_path / "progressive_cpu.yaml").write_text(yaml.safe_dump(failing, sort_keys=False), encoding="utf-8")
    (elsewhere / "ends.jsonl").unlink()
    assert reproduce.main() == 2
    assert "sweep-fails-0.001-seed501 ended with status 9" in capsys.readouterr().err
    # In the sweep already: what had ended, and what was known of the final runs.
    ends = [path.read_text().splitlines() for path in (elsewhere / "ends.jsonl", folder / "ends.jsonl")]
    assert sorted(ends[0]) == sorted(ends[1])
