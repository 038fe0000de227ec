"""Decontamination within a preparation: what goes, what is counted, and what is reported of it."""

from pathlib import Path

import pytest

from data_prep.inspection import describe, outcome
from data_prep.manifest import HELDOUT, TRAIN, PreparedData
from data_prep.plans.drafting import draft_plan
from data_prep.plans.frozen_plan import freeze
from data_prep.prepare import prepare
from data_prep.text.rejects import CONTAMINATED, EXAMPLES
from tests.data_prep.preparing import dropped_examples, preparation, write_jsonl
from tests.data_prep.prose import made_up_texts
from tests.data_prep.test_prepare import decoded

EXAMPLES_OF_SET = made_up_texts(30, seed=9, words=30)
CLEAN = made_up_texts(300, seed=8, words=60)
DIRTY = [f"{CLEAN[number][:150]} {text.upper()} {CLEAN[number][150:]}" for number, text in enumerate(EXAMPLES_OF_SET)]


def prepared(root: Path, remove: str, clean: list[str] = CLEAN[30:], **corpus: object) -> PreparedData:
    root.mkdir()
    text = write_jsonl(root / "text.jsonl", [*clean, *DIRTY])
    exam = write_jsonl(root / "set.jsonl", ({"text": text, "id": "x"} for text in EXAMPLES_OF_SET))
    corpus = {"files": [text], "heldout_fraction": 0.1} | corpus
    decontamination = {"sets": {"exam": [exam]}, "remove": remove}
    asked = preparation(root / "out", corpus, tokenizer={"vocab_size": 406}, decontamination=decontamination, part_mib=1)
    return prepare(asked)


@pytest.mark.parametrize("remove", ["document", "span", "nothing"])
def test_documents_go_or_passages_or_nothing_and_are_counted_in_any_case(tmp_path, remove):
    data = prepared(tmp_path / "d", remove)
    (corpus,) = data.corpora
    texts = decoded(data, TRAIN) + decoded(data, HELDOUT)
    shown = describe(data, windows=0)
    assert "decontamination: 30 documents share words with exam" in outcome(data)
    assert corpus.contaminated == {"exam": 30}
    assert corpus.dropped[CONTAMINATED] == (30 if remove == "document" else 0)
    assert data.manifest.evaluation_sets == {"exam": {"texts": 30, "short": 30}}
    assert "looked for passages of exam: 30 texts, and not for 30 of fewer words" in shown
    assert "with exam            30 documents share a passage with it" in shown
    assert len(texts) == (270 if remove == "document" else 300)
    # The first word of an example may be one of its document's too, and is cut with the passage or not.
    inner = [" ".join(example.upper().split()[1:-1]) for example in EXAMPLES_OF_SET]
    kept = [text for text in texts if any(words in " ".join(text.split()) for words in inner)]
    assert len(kept) == (30 if remove == "nothing" else 0)
    if remove == "span":
        for number in range(30):
            begin, end = CLEAN[number][:140], CLEAN[number][160:]
            assert any(text.startswith(begin) and text.endswith(end) for text in texts)
    shown = [line for line in dropped_examples(data.directory) if line["kind"] == "contaminated"]
    assert len(shown) == EXAMPLES and {line["set"] for line in shown} == {"exam"}
    assert all("text.jsonl: line " in line["where"] and line["passage"].isupper() for line in shown)


def test_a_document_that_is_left_too_short_goes(tmp_path):
    longer = made_up_texts(100, seed=7, words=120)
    data = prepared(tmp_path / "d", "span", longer, min_length=80, length_unit="words")
    assert data.corpora[0].dropped[CONTAMINATED] == 30


def test_the_sets_are_part_of_the_plan_and_a_plan_without_is_what_it_was(tmp_path):
    text = write_jsonl(tmp_path / "text.jsonl", CLEAN)
    (tmp_path / "set.txt").write_text(EXAMPLES_OF_SET[0])

    def digest(**options: object) -> str:
        draft = draft_plan(preparation("-", {"files": [text]}, **options))
        return freeze(draft, [Path(item.name).read_text(encoding="utf-8") for item in draft.inputs if not item.digest]).digest

    sets = {"exam": [str(tmp_path / "set.txt")]}
    plain, with_set = digest(), digest(decontamination={"sets": sets})
    (tmp_path / "set.txt").write_text(EXAMPLES_OF_SET[1])
    other = digest(decontamination={"sets": sets})
    assert len({plain, with_set, other, digest(decontamination={"sets": sets, "ngram": 8})}) == 4


def test_documents_that_nothing_is_cut_out_of_are_not_judged_by_their_length_once_more(tmp_path):
    short = ["short"] * 3 + [f"    {'x' * 20}" for _ in range(3)]
    steps = [{"length": {"min": 10}}, "normalize", "deduplicate", {"length": {"min": 30}}]
    data = prepared(tmp_path / "d", "span", clean=[*CLEAN[30:], *short], steps=steps)
    # Those of four blanks and twenty letters are long enough where they stand first, and the copies of one go.
    assert data.corpora[0].dropped == {"too short": 3 + 1, "exact copy": 2}
