"""Steps behind deduplication."""

import pytest

from data_prep.prepare import prepare
from data_prep.settings import DataPrepConfig
from data_prep.steps.length import Length
from pipeline.common.errors import UserError
from tests.data_prep.preparing import cleaned_records, dropped_examples, preparation, write_jsonl
from tests.data_prep.prose import made_up_texts

TEXTS = made_up_texts(60)
UPPER = "tests.data_prep.steps.made:Upper"
FOOTER = "Read more of our stories on this page today"


@pytest.fixture
def config(tmp_path) -> DataPrepConfig:
    # Every third one begins with a digit.
    texts = [f"{number} {text}" if number % 3 == 0 else text for number, text in enumerate(TEXTS)]
    texts += texts[:6]
    records = ({"text": f"{text}\n{FOOTER}", "id": number} for number, text in enumerate(texts))
    corpus = {
        "name": "a",
        "files": [write_jsonl(tmp_path / "a.jsonl", records)],
        "columns": ["id"],
        "dedupe": "near",
        "dedupe_spans": {"unit": "line"},
        "heldout_fraction": 0.2,
        "steps": ["normalize", "deduplicate", {UPPER: {}}],
    }
    return preparation(tmp_path / "out", corpus, cleaned_text={"dropped": True})


def test_steps_behind_deduplication_see_what_stays_as_it_is_left(config):
    data = prepare(config)
    found = cleaned_records(data.directory)
    assert len(found) == 66
    for record in found:
        number = int(record["id"])
        if number >= len(TEXTS):
            assert record["dropped"] == "exact copy"
        elif number % 3 == 0:
            assert record["dropped"] == "begins with a digit"
        else:
            # The first document, which a step drops later, keeps the line that all have.
            assert record["text"] == TEXTS[number].upper()
            assert record["dropped"] == "" and record["metadata"]["capitals"] > 0
    (corpus,) = data.corpora
    assert corpus.dropped == {"begins with a digit": 20, "exact copy": 6}
    assert corpus.changed[UPPER] == 40 and corpus.dropped_by[UPPER] == {"begins with a digit": 20}
    assert sum(corpus.splits[split].documents for split in corpus.splits) == 40
    examples = dropped_examples(data.directory)
    assert [line["columns"]["id"] for line in examples if line.get("reason") == "begins with a digit"] == [0, 3, 6, 9, 12]


def test_where_nothing_is_left_what_was_dropped_behind_deduplication_is_said(config):
    (corpus,) = config.corpora
    steps = [*corpus.steps[:2], Length(min=10**6)]
    config = config.model_copy(update={"corpora": [corpus.model_copy(update={"steps": steps})]})
    with pytest.raises(UserError, match=r"passed cleaning \(dropped: too short: 60, exact copy: 6\)"):
        prepare(config)
