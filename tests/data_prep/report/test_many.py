"""Pages of many corpora, reasons and domains: the largest are named, and the rest is summed."""

from collections import Counter
from itertools import pairwise

from data_prep.manifest import HELDOUT, TRAIN, CorpusEntry, ShardEntry, SplitEntry
from data_prep.report.flow import few, flow_table, losses, overview_table, summed
from data_prep.report.numbers import percent, top
from data_prep.report.parts import Bar
from data_prep.report.spread import domains_table, lengths_table
from tests.data_prep.preparing import preparation


def corpus(number: int) -> CorpusEntry:
    read = 1000 + number
    shard = ShardEntry(prefix=f"{number}", documents=read - 100, sequences=read - 100, tokens=5000)
    return CorpusEntry(
        name=f"c{number}",
        weight=1.0,
        documents_read=read,
        dropped=Counter({"where": 40, "exact copy": 10, **{f"reason {one}": 1 for one in range(50)}}),
        dropped_by={"own:Step": Counter({f"reason {one}": 1 for one in range(50)})},
        examples={},
        domains=Counter({f"h{one}": 1 + one * (number % 3) for one in range(100)}),
        lengths=Counter({"3": number, "6": 7}),
        splits={TRAIN: SplitEntry(shards=[shard]), HELDOUT: SplitEntry()},
    )


CORPORA = [corpus(number) for number in range(300)]
CONFIG = preparation("-", {"name": "other", "files": ["-"]})


def test_the_largest_of_many_corpora_keep_their_order_and_the_rest_is_summed():
    shown = few(CORPORA, 5)
    assert [entry.name for entry in shown] == ["c295", "c296", "c297", "c298", "c299", "295 other corpora"]
    assert sum(entry.documents_read for entry in shown) == sum(entry.documents_read for entry in CORPORA)
    assert shown[-1].dropped == Counter({name: 295 * count for name, count in corpus(0).dropped.items()})
    assert shown[-1].dropped_by["own:Step"]["reason 7"] == 295
    assert shown[-1].splits[TRAIN].tokens == 295 * 5000
    # What is summed is a copy.
    assert CORPORA[0] == corpus(0)
    assert few(CORPORA[:6], 5) == CORPORA[:6]


def test_reasons_beyond_the_most_frequent_are_one_row_of_their_step():
    found = losses(CORPORA[0], ["normalize", "own:Step"])
    assert [(loss.step, loss.documents) for loss in found] == [("", 40), *[("own:Step", 1)] * 12, ("own:Step", 38), ("", 10)]
    assert sum(loss.documents for loss in found) == CORPORA[0].dropped.total()
    rows = flow_table(CORPORA[0], ["own:Step"]).rows
    bars = [row[-1] for row in rows if row[-1].lost]
    # Each bar ends where the one of the row above begins.
    assert bars[0].stop == 1 and all(above.begin == below.stop for above, below in pairwise(bars))
    assert rows[-3] == ["=\N{NO-BREAK SPACE}kept", "900", "90.0\N{NO-BREAK SPACE}%", Bar(0, 0.9)]


def test_steps_behind_deduplication_stand_behind_it():
    for steps, last in (
        (["normalize", "own:Step", "deduplicate"], "exact copy"),
        (["normalize", "deduplicate", "own:Step"], "38 other reasons"),
        # Counts of a step that is named twice are not apart.
        (["own:Step", "deduplicate", "own:Step"], "exact copy"),
    ):
        found = losses(CORPORA[0], steps)
        assert found[-1].reason == last and len(found) == 15


def test_a_step_that_names_itself_in_its_reasons_is_named_once():
    entry = corpus(0)
    entry.dropped_by["own"] = Counter({"own: too odd": 3})
    entry.dropped["own: too odd"] = 3
    assert "−\N{NO-BREAK SPACE}own: too odd" in [row[0] for row in flow_table(entry, ["own"]).rows]


def test_counts_that_do_not_add_up_are_said():
    wrong = corpus(0)
    wrong.dropped["where"] -= 1
    assert flow_table(wrong, []).notes == ["The shards hold 900 documents: the counts of the manifest disagree."]
    assert flow_table(corpus(0), []).notes == []


def test_a_table_of_many_corpora_ends_with_their_sum():
    rows = overview_table(few(CORPORA, 60), CONFIG).rows
    assert len(rows) == 62 and rows[-1][0] == "all corpora"
    assert rows[-1][1] == f"{sum(entry.documents_read for entry in CORPORA):,}"
    assert rows[-1][2:7] == ["12,000", "15,000", "0", "3,000", f"{sum(900 + number for number in range(300)):,}"]


def test_the_rest_of_many_kinds_is_summed_and_shares_are_of_all():
    grid = domains_table(CORPORA[:2])
    assert grid.head == ["host", "documents", "share", "", "of c0", "of c1"]
    assert len(grid.rows) == 26 and grid.rows[-1][0] == "75 more"
    counts = [int(row[1].replace(",", "")) for row in grid.rows]
    assert sum(counts) == 100 + sum(range(1, 101))
    assert grid.rows[0][:3] == ["h99", "101", "2.0\N{NO-BREAK SPACE}%"]
    assert grid.rows[-1][3] == Bar(0, 1)


def test_a_histogram_has_its_empty_bins_too():
    rows = lengths_table(CORPORA[3:4]).rows
    assert [row[:2] for row in rows] == [["4 to 7", "3"], ["8 to 15", "0"], ["16 to 31", "0"], ["32 to 63", "7"]]


def test_a_share_that_is_neither_none_nor_all_does_not_read_so():
    shares = [percent(part, 100_000) for part in (0, 1, 49, 50, 99_949, 99_950, 99_999, 100_000)]
    expected = ["0.0 %", "< 0.1 %", "< 0.1 %", "0.1 %", "99.9 %", "> 99.9 %", "> 99.9 %", "100.0 %"]
    assert shares == [share.replace(" ", "\N{NO-BREAK SPACE}") for share in expected]
    assert percent(0, 0) == "–"
    assert top({"a": 1, "b": 3, "c": 3}, 1).named == [("b", 3)]
    assert summed("one", CORPORA[:1]).documents_read == 1000
