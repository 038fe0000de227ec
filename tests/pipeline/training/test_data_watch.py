"""What is compared while steps run, without steps: the thread, what is reported, what is remembered."""

import json
import os
import threading
import time

import pytest

from data_prep.manifest import PreparedData
from data_prep.storage.block_digests import BLOCK
from pipeline.common.errors import UserError
from pipeline.common.heartbeat import watched_by
from pipeline.data import checks
from pipeline.data.checks import CheckedFile, DataChecks
from pipeline.training import distributed
from pipeline.training.loop.data_watch import DamagedDataError, DataWatch, Remembered
from tests.damages import flip
from tests.pipeline.data.test_checks import WIKI, as_earlier_versions_wrote_it, documents
from tests.shards import write_prepared


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """One rank that needs no others, and compares no shard whole at the start."""
    monkeypatch.setattr(checks, "COMPARED_AT_START", 0)
    monkeypatch.setattr(distributed, "on_every_rank", lambda work: work())
    monkeypatch.setattr(distributed, "total", lambda *values: list(values))


@pytest.fixture
def folder(tmp_path):
    """A shard of four blocks to train on, and one of two."""
    return write_prepared(tmp_path, {"wiki": ([documents(1, 3)], [documents(2, 1)])}).directory


def watch(folder, *, remembered=None):
    remembered = remembered or Remembered.read(folder / "checked.json")
    looked = DataChecks(PreparedData(folder), ("wiki",))
    looked.at_start(remembered.files, ("key",))
    return DataWatch(looked, folder / "checked.json", remembered)


def seen(watched, step=7):
    """Let the thread come to its end, and return the signs and what is reported then."""
    with watched.from_step(0):
        assert watched._unguarded_done.wait(30)
        watched._thread.join(30)
        signs = watched.signs
        return signs, str(watched.agreed(step, used=signs[1] > 0)) if signs[0] else None


@pytest.mark.parametrize("earlier", [False, True], ids=["blocks", "whole files"])
def test_what_is_whole_is_found_whole_and_remembered(folder, earlier, monkeypatch):
    if earlier:
        as_earlier_versions_wrote_it(folder)
    watched = watch(folder)
    assert seen(watched) == ((0, 0), None)
    watched.remember()
    assert {f"wiki-{split}-0.bin" for split in ("train", "heldout")} < {
        os.path.basename(file["path"]) for file in json.loads((folder / "checked.json").read_text())["files"]
    }
    # A run that goes on reads none of it again.
    monkeypatch.setattr(CheckedFile, "compare", lambda *_: pytest.fail("read again"))
    assert watch(folder)._left == []


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"files": 1, "step": 0}', '{"files": [{"path": 1}], "step": 0}'])
def test_a_damaged_memory_is_none(folder, content):
    watched = watch(folder)
    (folder / "checked.json").write_text(content)
    assert Remembered.read(folder / "checked.json") == Remembered()
    seen(watched)
    watched.remember()
    assert len(Remembered.read(folder / "checked.json").files) == 8


def test_a_memory_that_cannot_be_written_stops_nothing(folder):
    watched = watch(folder)
    (folder / "checked.json").mkdir()
    seen(watched)
    watched.remember()
    assert Remembered.read(folder / "checked.json") == Remembered()


def test_a_fault_in_what_is_compared_by_blocks_left_no_mark_on_any_step(folder):
    watched = watch(folder)
    flip(folder / f"{WIKI}.bin", BLOCK + 1)
    signs, reason = seen(watched)
    assert signs == (1, 0) and reason.endswith("; no step was trained on it") and "bytes 65,536 to 131,072" in reason


def test_steps_since_a_shard_was_known_to_be_whole_are_named(folder):
    """Found whole in a first attempt, known by its time in a second, that begins after 40 steps, and changed before a third."""
    as_earlier_versions_wrote_it(folder)
    first = watch(folder)
    flip(folder / f"{WIKI}.bin", BLOCK + 1)
    signs, reason = seen(first, step=12)
    assert (
        signs == (1, 1)
        and "; steps 1 to 12 may have been trained on it: remove the checkpoints of steps beyond 0, and start" in reason
    )
    flip(folder / f"{WIKI}.bin", BLOCK + 1)
    first = watch(folder)
    seen(first)
    first.remember()
    second = watch(folder)
    with second.from_step(40):
        second.remember()
    assert Remembered.read(folder / "checked.json").step == 40
    flip(folder / f"{WIKI}.bin", BLOCK + 1)
    os.utime(folder / f"{WIKI}.bin", ns=(1, 1))
    signs, reason = seen(watch(folder), step=55)
    assert signs == (1, 1) and "; steps 41 to 55 may have been trained on it" in reason
    # Before the first step of an attempt there is none.
    assert seen(watch(folder), step=40)[1].endswith("; no step was trained on it")


@pytest.mark.parametrize(
    "change", [lambda path: os.truncate(path, BLOCK), lambda path: path.unlink(), lambda path: os.truncate(path, 9 * BLOCK)]
)
def test_a_shard_that_vanishes_or_changes_its_size_while_steps_run_is_told(folder, change):
    watched = watch(folder)
    change(folder / f"{WIKI}.bin")
    assert seen(watched)[0] == (1, 0)


@pytest.mark.parametrize("change", [lambda path: os.truncate(path, BLOCK), lambda path: path.unlink()])
@pytest.mark.parametrize("mapped", [False, True], ids=["new", "mapped"])
def test_a_shard_that_vanishes_or_is_cut_off_is_refused_where_it_is_read(folder, change, mapped):
    data = PreparedData(folder)
    shard = data.open(data.corpora[0], "train")[0]
    if mapped:
        # Behind its end a map of the file would end the process.
        shard.read(0, 10)
    change(folder / f"{WIKI}.bin")
    with pytest.raises(UserError, match=r"wiki-train-0\.bin: (bytes 131,072 to|cannot be read)"):
        shard.read(2 * BLOCK // 2, 2 * BLOCK // 2 + 10)


def test_what_cannot_be_read_is_held_back_until_all_ranks_know(folder):
    watched = watch(folder)

    def read():
        raise UserError("a.bin: damaged")

    assert watched.read(lambda: [1, 2]) == [1, 2] and watched.signs == (0, 0)
    assert watched.read(read) == [] and watched.signs == (1, 0)
    error = watched.agreed(3, used=False)
    assert isinstance(error, DamagedDataError) and not error.used
    assert str(error) == "a.bin: damaged; no step was trained on it"


def test_the_end_waits_for_files_that_may_have_been_used_uncompared_and_for_no_others(folder, monkeypatch, messages):
    going_on = threading.Event()
    monkeypatch.setattr(CheckedFile, "compare", lambda file, after_piece=None: after_piece and going_on.wait(30))
    watched = watch(folder)
    with watched.from_step(0), watched_by(lambda: pytest.fail("has waited")):
        watched.finish(5)
        going_on.set()
    going_on.clear()
    beats = []
    watched = watch(as_earlier_versions_wrote_it(folder), remembered=Remembered())
    with watched.from_step(0), watched_by(lambda: (beats.append(1), going_on.set())):
        watched.finish(5)
    assert beats and not messages


def test_the_thread_keeps_to_its_rate_and_ends_with_the_run(folder, monkeypatch):
    monkeypatch.setattr("pipeline.training.loop.data_watch._BYTES_A_SECOND", 1)
    watched = watch(folder)
    began = time.monotonic()
    with watched.from_step(0):
        while watched._thread.is_alive() and time.monotonic() < began + 0.3:
            time.sleep(0.01)
        # A shard would take days.
        assert watched._thread.is_alive() and len(watched._checks.whole) == 6
    watched._thread.join(10)
    assert not watched._thread.is_alive()


@pytest.mark.parametrize("earlier", [False, True], ids=["blocks", "whole files"])
def test_a_fault_that_is_found_after_the_last_step_is_told(folder, earlier, messages):
    """Where no step can have read it the run has ended well, and the next one would be refused."""
    if earlier:
        as_earlier_versions_wrote_it(folder)
    watched = watch(folder)
    flip(folder / f"{WIKI}.bin", BLOCK + 1)
    with watched.from_step(0):
        watched._thread.join(30)
        if earlier:
            with pytest.raises(DamagedDataError, match="steps 1 to 7 may have been trained on it"):
                watched.finish(7)
        else:
            watched.finish(7)
    if earlier:
        assert messages == []
    else:
        (line,) = messages
        assert line.startswith("warning: ") and f"{WIKI}.bin" in line and line.endswith("; no step was trained on it")
