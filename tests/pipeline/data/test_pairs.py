import numpy as np
import pytest
import torch

from data_prep.errors import UserError
from pipeline.data.objectives import IGNORED, MaskedObjective
from pipeline.data.pairs import SentencePairs
from tests.shards import write_shard

PAD, CLS, SEP, MASK = 0, 2, 3, 4
LENGTH = 48
OBJECTIVE = MaskedObjective(LENGTH, 100_000, CLS, MASK, (0, 1, 2, 3, 4))


@pytest.fixture
def sentences(tmp_path):
    """Documents of sentences over two shards; each sentence's tokens are of its own, the documents' ends apart."""
    draw = np.random.default_rng(3)
    token, documents = 10, []
    for _ in range(120):
        document = []
        for _ in range(draw.integers(1, 12)):
            size = int(draw.integers(1, 20))
            document.append(list(range(token, token + size)))
            token += size
        documents.append(document)
    ended = [[*document[:-1], [*document[-1], SEP]] for document in documents]
    shards = [write_shard(tmp_path / "a", ended[:70], 100_000), write_shard(tmp_path / "b", ended[70:], 100_000)]
    return shards, documents


def pairs(sentences, kind="nsp", seed=7, objective=OBJECTIVE):
    return SentencePairs(sentences[0], kind, objective, SEP, PAD, seed)


def segments(batch):
    """A and B of each row, unmasked, after a look at the special tokens."""
    whole = torch.where(batch.labels == IGNORED, batch.input_ids, batch.labels)
    for row in range(len(whole)):
        used = int(batch.attention_mask[row].sum())
        tokens, types = whole[row].tolist(), batch.token_type_ids[row]
        assert tokens[0] == CLS and tokens[used - 1] == SEP and set(tokens[used:]) <= {PAD}
        first = tokens.index(SEP)
        assert types.tolist() == [0] * (first + 1) + [1] * (used - first - 1) + [0] * (LENGTH - used)
        a, b = tokens[1:first], tokens[first + 1 : used - 1]
        assert a and b and not {CLS, SEP, PAD} & {*a, *b}
        yield a, b


def places(documents):
    """Where each token that begins or ends a sentence stands: (document, sentence)."""
    begins, ends = {}, {}
    for number, document in enumerate(documents):
        for place, sentence in enumerate(document):
            begins[sentence[0]], ends[sentence[-1]] = (number, place), (number, place)
    return begins, ends


@pytest.mark.parametrize("kind", ["nsp", "sop"])
def test_segments_are_whole_sentences_and_labels_tell_how_they_belong(sentences, kind):
    begins, ends = places(sentences[1])
    batch = pairs(sentences, kind).training(np.arange(2000))
    for (a, b), label in zip(segments(batch), batch.next_sentence_label.tolist(), strict=True):
        for part in (a, b):
            assert begins[part[0]][0] == ends[part[-1]][0], "a segment is of one document"
            assert part == list(range(part[0], part[-1] + 1)), "and has no gap"
        if label == 0:
            assert a[-1] + 1 == b[0] and begins[a[0]][0] == ends[b[-1]][0]
        elif kind == "nsp":
            assert begins[a[0]][0] != begins[b[0]][0]
        else:
            assert b[-1] + 1 == a[0] and begins[a[0]][0] == ends[b[-1]][0]
    # 1,000 give or take 22: four standard deviations.
    assert abs(int(batch.next_sentence_label.sum()) - 1000) < 90


def test_a_run_is_as_long_as_fits(sentences):
    """What follows a pair that holds together is another document, or a sentence for which there is no room."""
    _, ends = places(sentences[1])
    batch = pairs(sentences).training(np.arange(500))
    cut = 0
    for (a, b), label in zip(segments(batch), batch.next_sentence_label.tolist(), strict=True):
        if label == 0:
            document, last = ends[b[-1]]
            following = sentences[1][document][last + 1 :]
            if following:
                cut += 1
                # The document's end, which is not read, takes one token where it stands behind the next sentence.
                assert len(a) + len(b) + len(following[0]) + (len(following) == 1) > LENGTH - 3
    assert cut > 50


def test_segments_are_of_several_sentences_and_split_anywhere(sentences):
    _, ends = places(sentences[1])
    batch = pairs(sentences, "sop").training(np.arange(1000))
    counts = [(sum(t in ends for t in a), sum(t in ends for t in b)) for a, b in segments(batch)]
    assert {a for a, _ in counts} >= {1, 2, 3} and {b for _, b in counts} >= {1, 2, 3}


def test_an_epoch_begins_at_every_sentence_that_can_begin_a_pair(sentences):
    begins, _ = places(sentences[1])
    dataset = pairs(sentences)
    batch = dataset.training(np.arange(len(dataset)))
    begun = {begins[a[0]] for a, _ in segments(batch)}
    can = {
        (number, place)
        for number, document in enumerate(sentences[1])
        for place in range(len(document) - 1)
        if len(document[place]) + len(document[place + 1]) + (place + 2 == len(document)) <= LENGTH - 3
    }
    assert len(dataset) == sum(map(len, sentences[1])) and begun == can


def test_masks_are_never_on_special_tokens_or_padding(sentences):
    batch = pairs(sentences).training(np.arange(500))
    scored = batch.labels != IGNORED
    assert not (batch.labels[scored] < 10).any() and not (scored & (batch.attention_mask == 0)).any()
    words = batch.attention_mask.sum() - 3 * 500
    # About 15,000 words, 15 % of them: four standard deviations are 1.2 %.
    assert abs(scored.sum() / words - 0.15) < 0.012


def test_samples_are_a_function_of_seed_and_number(sentences):
    samples = np.array([5, 10**12, 3])
    first, again = pairs(sentences).training(samples), pairs(sentences).training(samples[::-1].copy())
    other = pairs(sentences, seed=8).training(samples)
    for column in first.__dataclass_fields__:
        assert torch.equal(getattr(first, column), getattr(again, column).flip(0))
    assert not torch.equal(first.input_ids, other.input_ids)


def test_bert_takes_a_batch_as_it_is(sentences):
    from transformers import BertConfig, BertForPreTraining

    objective = MaskedObjective(LENGTH, 20_000, CLS, MASK, (0, 1, 2, 3, 4))
    batch = pairs(sentences, objective=objective).training(np.arange(4))
    config = BertConfig(vocab_size=20_000, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    fields = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
    assert BertForPreTraining(config)(**fields).loss.isfinite()


def test_text_without_a_pair_is_refused(tmp_path):
    alone = write_shard(tmp_path / "alone", [[[10, 11]], [[12]], [[13, 14]]])
    with pytest.raises(UserError, match="no document with two sentences"):
        SentencePairs([alone], "sop", OBJECTIVE, SEP, PAD, 1).training(np.arange(1))
    single = write_shard(tmp_path / "single", [[[10, 11], [12], [13, 14]]])
    SentencePairs([single], "sop", OBJECTIVE, SEP, PAD, 1).training(np.arange(20))
    with pytest.raises(UserError, match="found in another document"):
        SentencePairs([single], "nsp", OBJECTIVE, SEP, PAD, 1).training(np.arange(20))
