"""The ledger: what it adds up, and that nothing of it is lost from one run to the next."""

import json

import pytest

from pipeline.common.errors import UserError
from pipeline.flops.counts import PARTS, StepFlops
from pipeline.flops.ledger import LEDGER, Ledger, Line, write_ledger
from pipeline.training.directory.inherited import read_inherited


def flops(model: int, executed: int) -> StepFlops:
    """All of it in the FFN, but for the head's 1."""
    return StepFlops(
        dict.fromkeys(PARTS, 0) | {"ffn": model - 1, "head": 1}, dict.fromkeys(PARTS, 0) | {"ffn": executed - 1, "head": 1}
    )


@pytest.fixture
def ledger() -> Ledger:
    """Of three steps in two stages and one that was lost, from a source of two steps and one lost."""
    source = Ledger()
    source.add("from_scratch", flops(100, 110))
    source.add("from_scratch", flops(100, 110))
    source.waste(7)
    run = Ledger()
    run.inherit("runs/small", source)
    for stage, step in [("submodels", flops(3, 4)), ("full", flops(5, 6)), ("full", flops(5, 6))]:
        run.add(stage, step)
    run.waste(flops(5, 6))
    return run


def test_it_adds_up_by_stage_and_by_part(ledger):
    assert ledger.stages == {"submodels": flops(3, 4), "full": flops(5, 6) + flops(5, 6)}
    assert ledger.parts == flops(3, 4) + flops(5, 6) + flops(5, 6)
    assert ledger.total == 16


def test_waste_and_inheritance_are_lines_of_their_own(ledger):
    assert ledger.wasted == 6
    assert ledger.inherited == {"runs/small": Line(flops(100, 110) + flops(100, 110), wasted=7, complete=True)}
    assert (ledger.whole.flops.model_total, ledger.whole.spent) == (213, 220 + 7 + 16 + 6)


def test_it_survives_every_way_from_one_run_to_the_next(ledger, tmp_path):
    # Checkpoint and resume.
    saved = json.loads(json.dumps({"step": 3, "ledger": ledger.to_json()}))
    resumed = Ledger.from_json(saved["ledger"])
    assert resumed == ledger
    # A growth within the run, and more steps.
    resumed.add("grown", flops(50, 60))
    # Export, and a run that starts from there, of which another starts.
    write_ledger(tmp_path, resumed)
    second = Ledger()
    second.inherit("exports/medium", read_inherited(tmp_path))
    second.add("full", flops(1000, 1000))
    third = Ledger()
    third.inherit("exports/large", second)
    assert list(third.inherited) == ["exports/large"]
    line = third.inherited["exports/large"]
    assert line.flops.model_total == 200 + 13 + 50 + 1000
    assert line.flops.executed_total == 220 + 16 + 60 + 1000
    assert (line.wasted, line.complete) == (7 + 6, True)


def test_large_counts_keep_their_last_digit(tmp_path):
    ledger = Ledger()
    ledger.add("full", flops(10**25 + 1, 10**26 + 1))
    ledger.waste(10**24 + 1)
    write_ledger(tmp_path, ledger)
    assert read_inherited(tmp_path) == ledger


def test_a_resumed_run_keeps_what_it_inherited_at_its_beginning():
    source, run = Ledger(), Ledger()
    source.add("full", flops(5, 6))
    run.inherit("runs/small", source)
    source.add("full", flops(5, 6))
    for later in (source, None):
        run.inherit("runs/small", later)
    assert (run.whole.spent, run.whole.complete) == (6, True)


def test_a_source_that_came_trained_leaves_every_later_sum_incomplete():
    run, heir = Ledger(), Ledger()
    run.inherit("bert-base-uncased", None)
    heir.inherit("runs/medium", run)
    assert not heir.inherited["runs/medium"].complete
    assert not heir.whole.complete
    assert not Ledger.from_json(heir.to_json()).whole.complete
    assert Ledger().whole.complete


def as_export(directory, ledger):
    write_ledger(directory, ledger)
    return directory


def as_tag(directory, ledger):
    tag = directory / "checkpoints" / "step-00000007"
    tag.mkdir(parents=True)
    (tag / "mp_rank_00_model_states.pt").touch()
    content = {"step": 7} | ({} if ledger is None else {"ledger": ledger.to_json()})
    (tag / "progress.json").write_text(json.dumps(content))
    return tag


def as_run(directory, ledger):
    tag = as_tag(directory, ledger)
    (tag.parent / "latest").write_text(tag.name + "\n")
    return directory


@pytest.mark.parametrize("source", [as_export, as_tag, as_run])
def test_it_is_found_beside_a_model_wherever_one_may_lie(ledger, source, tmp_path):
    assert read_inherited(source(tmp_path, ledger)) == ledger


def test_a_model_without_one_has_none(tmp_path):
    assert read_inherited(tmp_path) is None
    assert read_inherited(as_run(tmp_path, None)) is None
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "mp_rank_00_model_states.pt").touch()
    assert read_inherited(foreign) is None


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"stages": {"full": {}}, "wasted": 0, "inherited": {}}',
        '{"stages": {}, "wasted": 1.5, "inherited": {}}',
    ],
)
def test_one_that_cannot_be_read_is_named(content, tmp_path):
    (tmp_path / LEDGER).write_text(content)
    with pytest.raises(UserError, match=LEDGER):
        read_inherited(tmp_path)
