import os
import re
import subprocess
import sys

import numpy as np
import pytest

from data_prep.encoding import libraries, stress
from data_prep.encoding.choice import Fast, UnfitError, choose, compare, reopen
from data_prep.encoding.ragged import first_difference, ragged
from data_prep.encoding.reference import HuggingFace
from data_prep.encoding.stress import stress_texts
from tests.data_prep.encoding.tokenizers_of_all_kinds import KINDS, wrong_on


@pytest.fixture
def short(monkeypatch):
    """A few of the stress texts."""
    for name in ("_MIXED", "_OF_BYTES", "_OF_UNICODE", "_OF_IDS"):
        monkeypatch.setattr(stress, name, getattr(stress, name) // 40)
    monkeypatch.setattr(stress, "_LONG", (33, 300))
    monkeypatch.setattr(stress, "_HIGHEST", 0x900)


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """The path of one kind's description, written when it is first asked for."""
    folder = tmp_path_factory.mktemp("kinds")

    def write(kind):
        path = folder / f"{kind}.json"
        if not path.exists():
            path.write_text(KINDS[kind][0]().to_str())
        return path

    return write


@pytest.mark.parametrize("split", [True, False], ids=["split", "whole"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_tokenizer_has_a_library_with_hugging_faces_ids(described, short, kind, split):
    reference = HuggingFace(described(kind), split)
    chosen, fast = choose(reference)
    assert (chosen.library, chosen.refused) == (KINDS[kind][1], {})
    # Others than it was chosen by.
    texts = ["", *stress_texts(["<other>"], 300, lambda ids: " ".join(map(chr, ids)))]
    ids = fast.encode(texts)
    assert first_difference(ids, reference.encode(texts)) is None
    assert ids.ids.dtype == np.uint32


@pytest.mark.parametrize("kind", ["GPT-2", "BERT uncased"])
def test_a_special_token_that_is_spelled_is_text_or_that_token(described, short, kind):
    (special,) = {"GPT-2": ["<|endoftext|>"], "BERT uncased": ["[MASK]"]}[kind]
    for split in (True, False):
        reference = HuggingFace(described(kind), split)
        number = reference._tokenizer.token_to_id(special)
        _, fast = choose(reference)
        assert (number in fast.encode([f"a {special} b"]).ids) is not split


def test_a_library_of_another_version_of_unicode_does_not_encode(described, short):
    """splintr-rs does not know the combining classes of marks that came with Unicode 14, which NFC sorts by."""
    reference = HuggingFace(described("Qwen2"), True)
    texts = stress_texts(reference.added, reference.vocabulary, reference.decode)
    with pytest.raises(UnfitError, match="gives other ids"):
        compare(texts, Fast("splintr-rs", reference).encode(texts), reference.encode(texts))


_OF_THREADS = """
import json, os, sys
from data_prep.encoding.libraries import load
for name, path in zip(sys.argv[1::2], sys.argv[2::2]):
    encode = load(name, json.load(open(path)))
    assert not {"RAYON_NUM_THREADS", "FASTOKENS_BPE_THREADS"} & set(os.environ)
    encode([f"{n} words of a text " * 50 for n in range(1000)])
print(len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="threads are counted by Linux")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core has one thread in any case")
def test_a_library_starts_one_thread_and_leaves_the_environment_as_it_was(described):
    own = {name: value for name, value in os.environ.items() if name not in libraries._THREADS} | {"OPENBLAS_NUM_THREADS": "1"}
    pairs = ["fastokens", str(described("GPT-2")), "splintr-rs", str(described("Gemma"))]
    done = subprocess.run([sys.executable, "-c", _OF_THREADS, *pairs], env=own, capture_output=True, text=True, check=True)
    # Python's, and the one that splintr starts.
    assert int(done.stdout) <= 2


FASTOKENS = libraries.LIBRARIES["fastokens"]
wrong = wrong_on("rock'n'roll")


def raising(error):
    def encode(texts):
        raise error

    return lambda described: encode


def absent(described):
    raise ImportError("No module named 'fastokens'")


class PanicException(BaseException):
    pass


def too_few(described):
    encode = FASTOKENS(described)
    return lambda texts: encode(texts[:-1])


@pytest.mark.parametrize(
    ("library", "message"),
    [
        (wrong, "gives other ids than Hugging Face's tokenizers for the text"),
        (raising(ValueError("no such regex")), r"fails \(no such regex\)"),
        (raising(PanicException("index out of bounds")), r"fails \(index out of bounds\)"),
        (absent, r"cannot be imported \(No module named 'fastokens'\)"),
        (too_few, "gives ids of"),
    ],
    ids=["wrong", "error", "panic", "absent", "too few"],
)
def test_a_library_that_is_not_exact_does_not_encode(described, short, monkeypatch, library, message):
    monkeypatch.setitem(libraries.LIBRARIES, "fastokens", library)
    reference = HuggingFace(described("GPT-2"), True)
    chosen, fast = choose(reference)
    assert chosen.library == "splintr-rs" and fast is not None
    assert list(chosen.refused) == ["fastokens"]
    assert re.search(message, chosen.refused["fastokens"])
    monkeypatch.setitem(libraries.LIBRARIES, "splintr-rs", library)
    chosen, fast = choose(reference)
    assert chosen.library == "tokenizers" and fast is None and list(chosen.refused) == ["fastokens", "splintr-rs"]


def test_another_version_than_was_compared_is_compared_anew(described, short, monkeypatch):
    reference = HuggingFace(described("GPT-2"), True)
    chosen, _ = choose(reference)
    monkeypatch.setitem(libraries.LIBRARIES, "fastokens", wrong)
    assert reopen(chosen, reference)[0].library == "fastokens"
    again, fast = reopen(chosen.model_copy(update={"version": "0.0"}), reference)
    assert again.library == "splintr-rs" and "gives other ids" in again.refused["fastokens"] and fast is not None


def test_a_library_that_is_gone_gives_way(described, short, monkeypatch):
    reference = HuggingFace(described("BERT cased"), True)
    chosen, _ = choose(reference)
    monkeypatch.setitem(libraries.LIBRARIES, "nanotoken", absent)
    assert reopen(chosen, reference) == (chosen.model_copy(update={
        "library": "tokenizers", "version": libraries.installed("tokenizers"), "compared": 0,
        "refused": {"nanotoken": f"{chosen.version}: cannot be imported (No module named 'fastokens')"},
    }), None)  # fmt: skip


def test_a_process_that_was_forked_from_one_with_splintr_does_without(described, short):
    """Its threads are not there, and loading it would wait for them without end."""
    reference = HuggingFace(described("Gemma"), True)
    choose(reference)
    child = os.fork()
    if child == 0:
        chosen, _ = choose(reference)
        os._exit(0 if chosen.library == "tokenizers" and "forked" in chosen.refused["splintr-rs"] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("other", "place"),
    [
        ([[1, 2], [], [3]], None),
        ([[1, 2], [], [4]], 2),
        ([[1, 5], [], [3]], 0),
        ([[1, 2], [3], []], 1),
        ([[1], [2], [3]], 0),
        ([[7, 2], [3], []], 0),
    ],
)
def test_the_first_text_that_differs_is_found(other, place):
    assert first_difference(ragged([[1, 2], [], [3]]), ragged(other)) == place


def test_stress_texts_are_the_same_every_time():
    one, other = (stress_texts(["<a>"], 9, str) for _ in range(2))
    assert one == other and len(one) > 20_000
