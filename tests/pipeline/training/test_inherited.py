"""What a source cost: whatever kind of source it is, every place that tells it tells the same."""

import json
import re

import pytest

from pipeline.common.errors import UserError
from pipeline.common.files import write_json
from pipeline.flops.counts import PARTS, StepFlops
from pipeline.flops.ledger import LEDGER, Ledger, write_ledger
from pipeline.growth.zero_checkpoint import PROGRESS
from pipeline.report.card import Known, model_card
from pipeline.report.compute import stage_rows
from pipeline.report.page import source_cost, warnings
from pipeline.report.recorded import read_run
from pipeline.training import distributed
from pipeline.training.directory.checkpoints import TrainState
from pipeline.training.directory.inherited import read_inherited
from pipeline.training.directory.run_directory import RunDirectory
from pipeline.training.run.resume import restored
from pipeline.training.run.summary import render
from tests.pipeline.growth.models import small_model
from tests.pipeline.report.recorded_runs import Made
from tests.pipeline.training.test_summary import growth, summary

GIGA = 10**9


def spent(model: int, executed: int) -> StepFlops:
    return StepFlops(*[dict.fromkeys(PARTS, 0) | {"ffn": flops * GIGA} for flops in (model, executed)])


def whole_ledger() -> Ledger:
    """600 GFLOP, 670 executed, and 4 of them lost."""
    ledger = Ledger(wasted=4 * GIGA)
    ledger.add("full", spent(600, 670))
    return ledger


def partial_ledger() -> Ledger:
    """The same after a source of which nothing is known."""
    ledger = whole_ledger()
    ledger.inherit("models/downloaded", None)
    return ledger


def run(directory, ledger):
    tag = checkpoint(directory / "checkpoints", ledger)
    (tag.parent / "latest").write_text(tag.name)
    return directory


def checkpoint(directory, ledger):
    tag = directory / "step-00000007"
    tag.mkdir(parents=True)
    (tag / "mp_rank_00_model_states.pt").touch()
    write_json(tag / PROGRESS, {"step": 7, "ledger": ledger.to_json()})
    return tag


def exported(directory, ledger):
    directory.mkdir()
    write_ledger(directory, ledger)
    return directory


def bare(directory, ledger):
    directory.mkdir()
    return directory


def grown_offline_before_ledgers_went_along(directory, ledger):
    tag = checkpoint(directory, ledger)
    write_json(tag / PROGRESS, {"model": "grown", "step": 0})
    return tag


def of_the_trainer(directory, ledger):
    tag = directory / "checkpoint-3" / "global_step3"
    tag.mkdir(parents=True)
    (tag / "mp_rank_00_model_states.pt").touch()
    (tag.parent / "latest").write_text(tag.name)
    # Of the Trainer's own counting, which is another one.
    write_json(tag.parent / "trainer_state.json", {"total_flos": 6e11})
    return directory / "checkpoint-3"


SOURCES = {
    "a run": (run, whole_ledger(), "all"),
    "a checkpoint": (checkpoint, whole_ledger(), "all"),
    "an exported model": (exported, whole_ledger(), "all"),
    "a run from a model without a ledger": (run, partial_ledger(), "some"),
    "a checkpoint of one": (checkpoint, partial_ledger(), "some"),
    "a model exported by one": (exported, partial_ledger(), "some"),
    "a model without a ledger": (bare, None, "none"),
    "a checkpoint without a ledger": (grown_offline_before_ledgers_went_along, whole_ledger(), "none"),
    "a checkpoint of transformers' Trainer": (of_the_trainer, None, "none"),
}


@pytest.fixture(params=SOURCES)
def started(request, tmp_path):
    """A run from each kind of source: its directory, the source's path, and how much is known."""
    make, ledger, known = SOURCES[request.param]
    source = make(tmp_path / "source", ledger)
    inherited = read_inherited(source)
    return Made(tmp_path / "run", given=str(source), inherited=inherited).write(), str(source), known


def test_the_summary_and_the_card_say_what_the_ledger_says(started):
    path, source, known = started
    ledger = Ledger.from_json(json.loads((path / "summary.json").read_text())["flops"])
    speeds = {stage: {"tflops": 1.0, "mfu": 0.5} for stage in ledger.stages}
    page = render(summary(growth(4.5), flops=ledger.to_json(), speeds=speeds))
    expected = {
        "all": rf"^  source +6e\+11 +6.74e\+11  \(pre-training of {source}\)$",
        "some": rf"^  source +6e\+11 +6.74e\+11  \(pre-training of {source}, at least: what it began from .* ledger\)$",
        "none": rf"^  source +not known: {source} came without a ledger$",
    }
    assert [kind for kind, line in expected.items() if re.search(line, page, re.MULTILINE)] == [known]
    card = model_card(Known(small_model("gpt2").config, "float32", "do it", ledger=ledger))
    expected = {
        "all": rf"\| pre-training of {source} \| 6e\+11 \| 6.74e\+11 \|",
        "some": rf"\| pre-training of {source} \| at least 6e\+11 \| at least 6.74e\+11 \|",
        "none": rf"\| pre-training of {source} \|  \| not known \|",
    }
    assert [kind for kind, line in expected.items() if re.search(line, card)] == [known]
    assert ledger.whole.complete == (known == "all")


def test_the_report_says_what_the_ledger_says(started):
    path, source, known = started
    recorded = read_run(path)
    (row,) = [row for row in stage_rows(recorded) if row["kind"] == "inherited"]
    figures = (None, None) if known == "none" else (600 * GIGA, 670 * GIGA)
    assert (row["model"], row["executed"]) == figures
    assert row["stage"] == f"pre-training of {source}" + (", at least" if known == "some" else "")
    # Savings are counted with whole costs alone.
    assert recorded.inherited_flops == (670 * GIGA if known == "all" else None)
    expected = {
        "all": "",
        "some": "at least 674\N{NO-BREAK SPACE}GFLOP: what it began from came without a ledger",
        "none": "not known: it came without a ledger",
    }
    assert source_cost(recorded) == expected[known]
    warned = [line for line in warnings(recorded) if source in line]
    assert warned == ([] if known == "all" else [f"What the pre-training of {source} cost is {expected[known]}."])


def test_a_run_that_goes_on_inherits_nothing_anew(tmp_path, monkeypatch):
    """Its source may have come to later checkpoints meanwhile, which are other directories."""
    monkeypatch.setattr(distributed, "on_first_rank", lambda work: work())
    directory = RunDirectory(tmp_path / "run")
    first, later = (checkpoint(tmp_path / name, whole_ledger()) for name in ("7", "8"))
    started = restored(directory, first, None)
    assert started.ledger.sources.spent == 674 * GIGA
    saved = TrainState(step=3, ledger=started.ledger)
    assert restored(directory, later, saved).ledger == started.ledger


def test_before_the_first_checkpoint_it_is_not_on_record_yet(tmp_path):
    path = Made(tmp_path / "run", given="models/small", inherited=whole_ledger(), recorded=3).write()
    assert source_cost(read_run(path)) == "on record from the run's first checkpoint on"


def test_a_run_whose_source_was_trained_in_it_has_no_source_to_tell_of(tmp_path):
    assert source_cost(read_run(Made(tmp_path / "run").write())) == ""


def test_a_ledger_of_endless_nesting_is_refused(tmp_path):
    (tmp_path / LEDGER).write_text("[" * 100_000)
    with pytest.raises(UserError, match=f"{LEDGER}: the FLOPs of the model's pre-training cannot be read"):
        read_inherited(tmp_path)
