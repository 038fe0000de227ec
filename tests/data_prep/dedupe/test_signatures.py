import numpy as np
import pytest

from data_prep.dedupe.kernels import agreeing, band_keys
from data_prep.dedupe.minhash import Signer, rows_needed
from tests.benchmarks.memory import Watched
from tests.data_prep.dedupe.planted import Writer, prose
from tests.data_prep.dedupe.reference import jaccard, shingles

_PERMUTATIONS = 128
_PAIRS = 1200


def _pairs(words: int, seed: int) -> tuple[list[str], list[str], np.ndarray]:
    """Texts of about so many words, others that are similar to each, of all similarities, and the true ones."""
    writer = Writer(seed, vocabulary=5000)
    pairs = []
    while len(pairs) < _PAIRS:
        left = writer.words(words)
        right = writer.edited(left, writer.draw.uniform(0.5 / words, min(0.15, 4 / words)))
        texts = prose(left), prose(right)
        similarity = jaccard(set(shingles(texts[0])), set(shingles(texts[1])))
        if 0 < similarity < 1:
            pairs.append((*texts, similarity))
    lefts, rights, similarities = zip(*pairs, strict=True)
    return list(lefts), list(rights), np.array(similarities)


def _estimates(lefts: list[str], rights: list[str]) -> np.ndarray:
    signer = Signer(_PERMUTATIONS, 5)
    return (signer(lefts)[0] == signer(rights)[0]).mean(axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("words", [8, 30, 300])
def test_the_error_is_that_of_independent_permutations_and_no_worse_than_datasketchs(words):
    lefts, rights, truth = _pairs(words, seed=words)
    ours = _rmse(_estimates(lefts, rights), truth)
    # An estimate is binomial over the permutations.
    classical = float(np.sqrt(np.mean(truth * (1 - truth) / _PERMUTATIONS)))
    # Of 1,200 pairs the error's own error is 2 %; the permutations are the same for all of them, which adds some.
    assert ours < 1.1 * classical
    assert ours > 0.8 * classical  # or this does not measure what it should
    assert ours < 1.1 * _rmse(np.array([_by_datasketch(*texts) for texts in zip(lefts, rights, strict=True)]), truth)


def test_the_mean_estimate_is_the_similarity():
    lefts, rights, truth = _pairs(100, seed=1)
    # .04 an estimate, over the root of 1,200 of them: .0012; four times that.
    assert abs(float((_estimates(lefts, rights) - truth).mean())) < 0.005


def test_a_signature_does_not_depend_on_the_texts_beside_it():
    texts = ["one two three four five six", "", "x", "中文字符" * 3000, "one two three four five six"]
    signer = Signer(_PERMUTATIONS, 5)
    together, worded = signer(texts)
    assert worded.tolist() == [True, False, True, True, True]
    for row, text in enumerate(texts):
        assert np.array_equal(signer([text])[0][0], together[row])
    assert np.array_equal(together[0], together[4])


def test_a_text_longer_than_a_block_has_the_minima_of_all_its_blocks():
    writer = Writer(3, vocabulary=2000)
    words = writer.words(20_000)
    signer = Signer(_PERMUTATIONS, 5)
    # The pieces overlap by four words, so that together they have all of the text's shingles and no others.
    pieces = [" ".join(words[start : start + 1004]) for start in range(0, len(words), 1000)]
    assert np.array_equal(signer([" ".join(words)])[0][0], signer(pieces)[0].min(axis=0))


def test_memory_is_proportional_to_the_text():
    text = "文字列的内容" * 500_000  # every character a word: as many shingles as characters
    signer = Signer(_PERMUTATIONS, 5)
    signer(["compiled"])
    with Watched() as watched:
        signer([text])
    # Four bytes for a code point, four for a shingle; the rest is the allocator's.
    assert watched.peak < 12 * len(text)


def test_signatures_are_the_same_on_every_machine_and_with_every_version_of_numpy():
    signature = Signer(4, 2)(["The cat sat on the mat"])[0][0]
    assert signature.tolist() == [186047050, 607264044, 1689222761, 933629040]


def test_agreement_is_counted_in_full_or_given_up():
    draw = np.random.default_rng(0)
    for _ in range(200):
        left = draw.integers(4, size=draw.integers(1, 140), dtype=np.uint32)
        right = np.where(draw.random(len(left)) < draw.random(), left, left + np.uint32(1))
        same = int((left == right).sum())
        for needed in {0, 1, same, same + 1, len(left)}:
            assert agreeing(left, right, needed) == (same if same >= needed else 0)


def test_the_rows_needed_are_the_fewest_that_reach_the_threshold():
    assert rows_needed(10, 0.8) == 8
    assert rows_needed(128, 0.8) == 103
    assert rows_needed(128, 1) == 128


def test_bands_are_equal_exactly_where_their_rows_are():
    draw = np.random.default_rng(1)
    signatures = draw.integers(2, size=(200, 12), dtype=np.uint32)
    keys = band_keys(signatures, 4)
    for band in range(4):
        rows = [tuple(row) for row in signatures[:, 3 * band : 3 * band + 3].tolist()]
        pairs = set(zip(keys[band].tolist(), rows, strict=True))
        assert len(pairs) == len(set(rows)) == len(set(keys[band].tolist())) == 8


def _rmse(estimates: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.mean((estimates - truth) ** 2)))


def _by_datasketch(*texts: str) -> float:
    minhash = pytest.importorskip("datasketch").MinHash
    signatures = []
    for text in texts:
        signature = minhash(num_perm=_PERMUTATIONS)
        signature.update_batch([" ".join(shingle).encode() for shingle in shingles(text)])
        signatures.append(signature)
    return signatures[0].jaccard(signatures[1])
