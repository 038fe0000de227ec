import json
import logging
from pathlib import Path

import pytest

from data_prep.jobs.job import WORK, Item, Job
from data_prep.jobs.workers import Alone, share


class Letters:
    """A stage whose items write two files each, and count how often they ran."""

    name = "letters"
    unit = "letters"

    def __init__(self, fails=()):
        self.ran = []
        self.fails = fails

    def items(self):
        return [Item(letter, 1 + place) for place, letter in enumerate("abc")]

    def work(self, item, outputs, advance):
        self.ran.append(item.name)
        for place in range(2):
            outputs.path(f"out/{item.name}{place}").write_text(f"{item.name * 3}{place}")
            if item.name in self.fails:
                raise OSError("out of luck")
        return {"documents_out": 1, "documents_in": 2}


def run(root, stage, digest="p"):
    return Job(root, digest, Alone()).run(stage)


def ran(root, digest="p"):
    """The items that a run does, ascending."""
    stage = Letters()
    run(root, stage, digest)
    return sorted(stage.ran)


def files(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_items_are_done_once_for_a_plan_and_recorded_by_their_hashes(tmp_path):
    first = Letters()
    facts = run(tmp_path, first)
    assert [fact.item for fact in facts] == ["a", "b", "c"] and sorted(first.ran) == ["a", "b", "c"]
    assert run(tmp_path, Letters()) == facts and ran(tmp_path) == []
    record = json.loads((tmp_path / WORK / "letters" / "a.json").read_text())
    assert set(record["outputs"]) == {"out/a0", "out/a1"} and record["counts"]["documents_in"] == 2
    assert ran(tmp_path, digest="q") == ["a", "b", "c"]


def test_a_changed_or_missing_output_is_made_anew(tmp_path):
    run(tmp_path, Letters())
    whole = files(tmp_path)
    (tmp_path / "out" / "a0").write_text("aaa9")
    (tmp_path / "out" / "b1").unlink()
    (tmp_path / WORK / "letters" / "c.json").write_text('{"plan": "p", "outp')
    assert ran(tmp_path) == ["a", "b", "c"] and files(tmp_path) == whole


@pytest.mark.parametrize("change", [lambda text: text.replace('"documents_in": 2', '"documents_in": 3'), lambda text: "[]"])
def test_an_item_whose_record_was_changed_is_done_again(tmp_path, change):
    run(tmp_path, Letters())
    whole = files(tmp_path)
    record = tmp_path / WORK / "letters" / "b.json"
    record.write_text(change(record.read_text()))
    assert ran(tmp_path) == ["b"] and files(tmp_path) == whole


def test_an_item_that_fails_leaves_nothing_and_the_others_stay(tmp_path):
    with pytest.raises(OSError, match="out of luck"):
        run(tmp_path, Letters(fails=("a",)))
    # The largest goes first: c and b were done before a failed.
    assert {path.name for path in files(tmp_path)} == {"b0", "b1", "b.json", "c0", "c1", "c.json"}
    assert ran(tmp_path) == ["a"]


def test_the_line_of_a_stage_adds_its_items_up(tmp_path, caplog):
    caplog.set_level(logging.INFO, "data_prep")
    run(tmp_path, Letters())
    assert "letters" in caplog.text and "6 -> 3 documents" in caplog.text


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_item_is_one_processs_and_the_load_is_even(count):
    items = [Item(str(n), 1 + (n * 7) % 13) for n in range(100)]
    shares = [share(items, rank, count) for rank in range(count)]
    assert sorted(item.name for mine in shares for item in mine) == sorted(item.name for item in items)
    loads = [sum(item.size for item in mine) for mine in shares]
    assert max(loads) - min(loads) <= 13


def test_nothing_is_written_in_place(tmp_path):
    """While an item is at work its files have other names than when they are whole."""

    class Looks(Letters):
        def work(self, item, outputs, advance):
            counts = super().work(item, outputs, advance)
            assert not (tmp_path / "out" / f"{item.name}0").exists()
            return counts

    run(tmp_path, Looks())
    assert not list(Path(tmp_path).rglob("*.partial"))
