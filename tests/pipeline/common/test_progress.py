"""What a person sees of something long: in a log, on a terminal, of one process of several."""

import io
import sys
from contextlib import contextmanager

import pytest

from data_prep.jobs.job import Item, Job
from data_prep.jobs.workers import Alone
from data_prep.manifest import PLAN
from data_prep.plans.frozen_plan import check_inputs, read_plan
from data_prep.prepare import prepare, prepare_together
from data_prep.settings import DataPrepConfig
from data_prep.stages.verify import damaged
from pipeline.common import progress
from pipeline.common.logs import RANK_VARIABLES
from pipeline.common.progress import Meter
from tests.conftest import next_line
from tests.data_prep.prose import made_up_texts
from tests.messages import taken_by


@pytest.fixture
def clock(monkeypatch):
    """What the time is, in seconds."""
    now = [1000.0]
    monkeypatch.setattr("pipeline.common.progress.time.monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("total", "unit", "amounts", "message"),
    [
        (2_670_000_000, "B", [1_000_000_000, 200_000_000], "44 %, 1.20 GB of 2.67 GB, 0:30 so far, 0:37 left"),
        (999_000, "B", [500], "0 %, 500 B of 999 kB, 0:30 so far, 16:38:30 left"),
        (4, "windows", [1], "25 %, 1 of 4 windows, 0:30 so far, 1:30 left"),
        (12_345, "documents", [], "0 %, 0 of 12,345 documents, 0:30 so far"),
        (10, "windows", [10], "100 %, 10 of 10 windows, 0:30 so far"),
        # An estimate that was too low is no more than all.
        (10, "windows", [12], "100 %, 10 of 10 windows, 0:30 so far"),
        (0, "B", [], "0:30 so far"),
    ],
)
def test_a_line_says_what_is_done_of_all_and_the_time_that_is_left(progress_lines, clock, total, unit, amounts, message):
    with Meter("name", total, unit) as meter:
        for amount in amounts:
            meter.advance(amount)
        clock[0] += 30
        assert next_line(progress_lines, "0:30 so far") == f"name: {message}"


def test_what_an_earlier_start_did_says_nothing_of_the_time_left(progress_lines, clock):
    with Meter("name", 100, "items") as meter:
        meter.skip(80)
        meter.advance(10)
        clock[0] += 60
        assert next_line(progress_lines, "1:00 so far") == "name: 90 %, 90 of 100 items, 1:00 so far, 1:00 left"


def test_an_item_counts_no_more_than_its_size_and_all_of_it_behind_the_block(progress_lines):
    with Meter("name", 30, "items") as meter:
        with meter.item(10) as advance:
            advance(4)
            assert next_line(progress_lines, " 4 of").startswith("name: 13 %")
            advance(40)
            assert next_line(progress_lines, "10 of").startswith("name: 33 %")
        with meter.item(20):
            pass
        assert next_line(progress_lines, "30 of").startswith("name: 100 %")


def test_an_operation_in_which_nothing_is_counted_is_seen_to_go_on_and_to_end(progress_lines, clock):
    with Meter("name") as meter:
        meter.note = "3 of 4 items"
        for minute in (1, 2):
            clock[0] += 60
            assert next_line(progress_lines, f"{minute}:00 so far") == f"name: {minute}:00 so far, 3 of 4 items"
    assert next_line(progress_lines, "done") == "name: done in 2:00"


def test_what_is_over_soon_says_nothing(monkeypatch, capsys):
    with Meter("name", 10) as meter:
        meter.advance(10)
    assert capsys.readouterr().out == ""


def test_what_fails_does_not_say_that_it_is_done(progress_lines):
    with pytest.raises(ValueError, match="no"), Meter("name"):
        next_line(progress_lines, "so far")
        raise ValueError("no")
    assert all("done" not in progress_lines.get() for _ in range(progress_lines.qsize()))


@pytest.mark.parametrize("name", RANK_VARIABLES)
def test_the_first_process_alone_says_something(progress_lines, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    with Meter("second"), Meter("first", shown=True):
        next_line(progress_lines, "first")
    monkeypatch.setenv(name, "0")
    with Meter("first by its number"):
        next_line(progress_lines, "first by its number")
    assert all("second" not in progress_lines.get() for _ in range(progress_lines.qsize()))


def test_a_reader_that_has_gone_does_not_end_the_operation(progress_lines):
    def broken(line: str) -> None:
        progress_lines.put(line)
        raise BrokenPipeError

    with taken_by(broken, of=progress.__name__), Meter("name") as meter:
        next_line(progress_lines, "name")
        meter.advance(1)


def test_on_a_terminal_there_is_a_bar_which_goes_at_the_end(progress_lines, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    monkeypatch.setattr(progress, "_BAR_SECONDS", 0)
    with Meter("writing", 2_000_000) as meter:
        meter.advance(1_000_000)
        meter.note = "1 of 2 items"
        while "1 of 2 items" not in terminal.getvalue():
            pass
    shown = terminal.getvalue()
    assert "writing:  50%" in shown and "1.00M/2.00M" in shown and shown.endswith("\r") and "\n" not in shown
    assert progress_lines.empty()


def test_progress_within_an_item_is_shown(progress_lines, tmp_path):
    class Slow:
        name = "slow"
        unit = "documents"

        def items(self):
            return [Item("a", 90), Item("b", 10)]

        def work(self, item, outputs, advance):
            if item.name == "a":
                advance(30)
                seen.append(next_line(progress_lines, " 30 of"))
            return {}

    seen: list[str] = []
    Job(tmp_path, "plan", Alone()).run(Slow())
    assert seen[0].startswith("data: slow: 30 %, 30 of 100 documents, 0:00 so far, 0:0")
    assert seen[0].endswith(" left, 0 of 2 items")
    # What is done is passed over by the next start.
    Job(tmp_path, "plan", Alone()).run(Slow())
    assert len(seen) == 1


@pytest.fixture
def counted(monkeypatch):
    """The stages' sizes, and what is counted of them within their items, by name."""
    found: dict[str, tuple[int, list[int]]] = {}

    class Recording(Meter):
        def __init__(self, name, total, *others, **options):
            super().__init__(name, total, *others, **options)
            self._told = found.setdefault(name.removeprefix("data: "), (total, []))[1]

        @contextmanager
        def item(self, size):
            with super().item(size) as advance:
                yield lambda amount: (self._told.append(amount), advance(amount))

    monkeypatch.setattr("data_prep.jobs.job.Meter", Recording)
    return found


def test_every_stage_tells_progress_within_its_items(tmp_path, counted, metered):
    texts = made_up_texts(300)
    near = [f"{text} and {number}" for number, text in enumerate(texts[:100])]
    (tmp_path / "a.txt").write_text("\n\n".join([*texts, *texts[:20], *near]), encoding="utf-8")
    request = {
        "output_dir": str(tmp_path / "out"),
        "corpora": [{"files": [str(tmp_path / "a.txt")], "dedupe": "near", "heldout_fraction": 0.1}],
        "tokenizer": {"vocab_size": 300, "sample_characters": 50_000},
    }
    config = DataPrepConfig.model_validate(request)
    prepare_together(config, Alone())
    stages = "plan clean exact minhash neighbours cluster choose filter tokenizer tokenize accept verify"
    assert list(counted) == stages.split()
    for name, (size, steps) in counted.items():
        # `filter` takes no time, and there is no shard to accept yet.
        if name not in ("filter", "accept"):
            assert 0.5 * size <= sum(steps), (name, size, steps)
    # Given shards, a tokenizer, and the folder's verification.
    shards = str(next((tmp_path / "out" / "shards" / "text").glob("train-*.idx")))
    given = {"shards": [shards], "heldout_shards": [shards.replace("train", "heldout")]}
    again = request | {
        "output_dir": str(tmp_path / "b"),
        "corpora": [given],
        "tokenizer": {"path": str(tmp_path / "out/tokenizer")},
    }
    counted.clear()
    data = prepare(DataPrepConfig.model_validate(again))
    assert sum(counted["accept"][1]) >= counted["accept"][0] > 0
    assert damaged(data) == []
    check_inputs(read_plan(data.directory / PLAN).files, {}, data.directory)
    for name in ("data: inputs hashed", "data: inputs compared", f"{data.directory}: files read"):
        size, steps = metered[name]
        assert sum(steps) == size > 0, name
