"""What is found of evaluation sets, beside n-grams of words in plain Python."""

import json
import random
import re
from pathlib import Path

import pytest

from data_prep.decontamination.passages import Passages
from tests.data_prep.dedupe.reference import shingles
from tests.data_prep.preparing import write_jsonl
from tests.data_prep.prose import made_up_texts

NGRAM = 13


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """Two sets of 200 made-up examples each, of 30 words, and their passages."""
    root = tmp_path_factory.mktemp("sets")
    texts = {"first": made_up_texts(200, seed=101, words=30), "second": made_up_texts(200, seed=102, words=30)}
    return texts, Passages({name: [Path(write_jsonl(root / f"{name}.jsonl", texts[name]))] for name in texts}, NGRAM)


def planted(text: str, how: str, draw: random.Random) -> str:
    """An example as it may stand in a document."""
    between = draw.choice([", ", " - ", "\n", " — "])
    return {
        "verbatim": text,
        "in capitals": text.upper(),
        "other punctuation": between.join(text.split()),
        "its middle alone": " ".join(text.split()[8:23]),
    }[how]


@pytest.mark.parametrize("how", ["verbatim", "in capitals", "other punctuation", "its middle alone"])
def test_examples_inside_longer_documents_are_found_and_their_set_is_named(evaluation, how):
    sets, passages = evaluation
    draw = random.Random(5)
    around = made_up_texts(400, seed=103, words=80)
    for (name, text), other in zip(((name, text) for name, texts in sets.items() for text in texts), around, strict=True):
        example = planted(text, how, draw)
        document = f"{other[:200]}\n{example}\n{other[200:]}"
        found = passages(document)
        assert name in {each for passage in found for each in passage.sets}, document
        held = document[found[0].begin : found[-1].stop]
        # A passage may be longer by words that are next to it in the set too, and ends where a word does.
        assert re.sub(r"^\W+|\W+$", "", example) in held


def test_documents_without_a_common_ngram_are_left_and_others_have_exactly_those(evaluation):
    """10,000 clean documents, a hundredth of which hold half an n-gram of a set, and some a whole one by chance."""
    sets, passages = evaluation
    draw = random.Random(6)
    examples = [text for texts in sets.values() for text in texts]
    known = {shingle for text in examples for shingle in shingles(text, NGRAM)}
    found = 0
    for number, text in enumerate(made_up_texts(10_000, seed=104, words=40)):
        document = text if number % 100 else text + " " + " ".join(draw.choice(examples).split()[:7])
        expected = any(shingle in known for shingle in shingles(document, NGRAM))
        assert bool(passages(document)) == expected, document
        found += expected
    assert found < 10


@pytest.mark.parametrize("ngram", [1, 2, 5, 13])
def test_passages_are_those_of_plain_python(tmp_path, ngram):
    texts = [*made_up_texts(40, seed=1, words=25), "北京大学在北京市。中国人民", "a a a a a a a a a a a a a a a a"]
    (tmp_path / "set.json").write_text(json.dumps({"data": [{"deep": texts[::2]}]}), encoding="utf-8")
    passages = Passages({"set": [tmp_path / "set.json"]}, ngram)
    known = {s for text in texts[::2] for s in shingles(text, ngram) if len(s) == ngram}
    for text in [*texts, " ".join(texts[:6])]:
        words = shingles(text, 1)
        marked = [False] * len(words)
        for place, shingle in enumerate(shingles(text, ngram)):
            if len(shingle) == ngram and shingle in known:
                marked[place : place + ngram] = [True] * ngram
        covered = [word for word, mark in zip(words, marked, strict=True) if mark]
        found = [word for passage in passages(text) for word in shingles(text[passage.begin : passage.stop], 1)]
        assert found == covered


def test_a_passage_is_named_by_all_sets_that_have_an_ngram_of_it(tmp_path):
    words = [f"word{number}" for number in range(40)]
    (tmp_path / "a.txt").write_text(" ".join(words[:20]))
    (tmp_path / "b.txt").write_text(" ".join(words[10:40]))
    passages = Passages({"a": [tmp_path / "a.txt"], "b": [tmp_path / "b.txt"]}, 10)
    (both,) = passages(" ".join(words))
    assert both.sets == ("a", "b") and passages.sizes == {"a": {"texts": 1, "short": 0}, "b": {"texts": 1, "short": 0}}
    # Words 10 to 19 are in both.
    assert [passage.sets for passage in passages(" ".join(words[:20]))] == [("a", "b")]
    assert [passage.sets for passage in passages(" ".join(words[:19]))] == [("a",)]
