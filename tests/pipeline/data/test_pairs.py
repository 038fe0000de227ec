import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForPreTraining

from pipeline.common.errors import UserError
from pipeline.data.batches import Batches, Corpus
from pipeline.data.objectives import IGNORED, MaskedObjective
from pipeline.data.pairs import SentencePairs
from tests.shards import write_shard

CLS, SEP, MASK = 2, 3, 4
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
    return Batches([Corpus("text", 1.0, SentencePairs(sentences[0], kind, objective, SEP))], seed)


def segments(batch):
    """A and B of each row, unmasked, after a look at the special tokens."""
    whole = torch.where(batch.labels == IGNORED, batch.input_ids, batch.labels)
    for row in range(len(whole)):
        used = int(batch.attention_mask[row].sum())
        tokens, types = whole[row].tolist(), batch.token_type_ids[row]
        assert tokens[0] == CLS and tokens[used - 1] == SEP and set(tokens[used:]) <= {SEP}
        first = tokens.index(SEP)
        assert types.tolist() == [0] * (first + 1) + [1] * (used - first - 1) + [0] * (LENGTH - used)
        a, b = tokens[1:first], tokens[first + 1 : used - 1]
        assert a and b and not {CLS, SEP} & {*a, *b}
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
    for (a, b), label in zip(segments(batch), batch.pair_labels.tolist(), strict=True):
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
    assert abs(int(batch.pair_labels.sum()) - 1000) < 90


def test_a_run_is_as_long_as_fits(sentences):
    """What follows a pair that holds together is another document, or a sentence for which there is no room."""
    _, ends = places(sentences[1])
    batch = pairs(sentences).training(np.arange(500))
    cut = 0
    for (a, b), label in zip(segments(batch), batch.pair_labels.tolist(), strict=True):
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
    beginnings = {begins[a[0]] for a, _ in segments(batch)}
    can = {
        (number, place)
        for number, document in enumerate(sentences[1])
        for place in range(len(document) - 1)
        if len(document[place]) + len(document[place + 1]) + (place + 2 == len(document)) <= LENGTH - 3
    }
    assert len(dataset) == sum(map(len, sentences[1])) and beginnings == can


def test_masks_are_never_on_special_tokens_or_padding(sentences):
    batch = pairs(sentences).training(np.arange(500))
    scored = batch.labels != IGNORED
    assert not (batch.labels[scored] < 10).any() and not (scored & (batch.attention_mask == 0)).any()
    words = batch.attention_mask.sum() - 3 * 500
    # About 15,000 words, 15 % of them: four standard deviations are 1.2 %.
    assert abs(scored.sum() / words - 0.15) < 0.012


FIELDS = ("input_ids", "labels", "token_type_ids", "attention_mask", "pair_labels")


def test_samples_are_a_function_of_seed_and_number(sentences):
    samples = np.array([5, 10**12, 3])
    first, again = pairs(sentences).training(samples), pairs(sentences).training(samples[::-1].copy())
    other = pairs(sentences, seed=8).training(samples)
    for column in FIELDS:
        assert torch.equal(getattr(first, column), getattr(again, column).flip(0))
    assert not torch.equal(first.input_ids, other.input_ids)


def test_held_out_pairs_are_the_same_each_time_and_from_all_over_the_text(sentences):
    begins, _ = places(sentences[1])
    batches = pairs(sentences)
    whole, again = batches.heldout(np.arange(40)), pairs(sentences).heldout(np.arange(100))
    for column in FIELDS:
        assert torch.equal(getattr(whole, column), getattr(again, column)[:40])
        assert torch.equal(getattr(batches.heldout(np.array([17])), column)[0], getattr(whole, column)[17])
    documents = [begins[a[0]][0] for a, _ in segments(whole)]
    # 40 of 120 documents at random: some 34 different ones, and the first 40 sentences are of 7.
    assert len(set(documents)) > 25


def test_another_corpus_changes_nothing_in_the_pairs_of_the_first(tmp_path, sentences):
    draw = np.random.default_rng(4)
    other = [[draw.integers(50_000, 90_000, 5).tolist() for _ in range(4)] for _ in range(9)]
    second = SentencePairs([write_shard(tmp_path / "c", other, 100_000)], "sop", OBJECTIVE, SEP)
    first = Corpus("text", 1.0, SentencePairs(sentences[0], "sop", OBJECTIVE, SEP))
    blend = Batches([Corpus("other", 1.0, second), first], 7)
    assert len(blend) == 36 + len(first.examples)
    batch = blend.training(np.arange(300))
    mine = torch.tensor([max(a) < 50_000 for a, _ in segments(batch)])
    assert abs(int(mine.sum()) - 150) < 40  # four standard deviations
    alone = pairs(sentences, "sop").training(np.arange(int(mine.sum())))
    for column in FIELDS:
        assert torch.equal(getattr(batch, column)[mine], getattr(alone, column)), column


def test_bert_takes_a_batch_as_it_is(sentences):
    objective = MaskedObjective(LENGTH, 20_000, CLS, MASK, (0, 1, 2, 3, 4))
    batch = pairs(sentences, objective=objective).training(np.arange(4))
    config = BertConfig(vocab_size=20_000, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    inputs = batch.inputs(torch.device("cpu"))
    assert inputs.keys() == {"input_ids", "token_type_ids", "attention_mask"}
    outputs = BertForPreTraining(config)(**inputs, labels=batch.labels, next_sentence_label=batch.pair_labels)
    assert outputs.loss.isfinite()


def test_what_stands_behind_a_pair_is_not_seen(sentences):
    """So that any token may stand there."""
    objective = MaskedObjective(LENGTH, 20_000, CLS, MASK, (0, 1, 2, 3, 4))
    inputs = pairs(sentences, objective=objective).training(np.arange(8)).inputs(torch.device("cpu"))
    torch.manual_seed(1)
    config = BertConfig(vocab_size=20_000, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8)
    model = BertForPreTraining(config).eval()
    seen = inputs["attention_mask"] == 1
    assert not seen.all()
    other = inputs | {"input_ids": torch.where(seen, inputs["input_ids"], 0)}
    with torch.no_grad():
        before, after = model(**inputs), model(**other)
    assert torch.equal(before.prediction_logits[seen], after.prediction_logits[seen])
    assert torch.equal(before.seq_relationship_logits, after.seq_relationship_logits)


def test_text_without_a_pair_is_refused(tmp_path):
    def read(shard, kind, count):
        SentencePairs([shard], kind, OBJECTIVE, SEP).read(np.arange(count), [("key", number) for number in range(count)])

    alone = write_shard(tmp_path / "alone", [[[10, 11]], [[12]], [[13, 14]]])
    with pytest.raises(UserError, match="no document with two sentences"):
        read(alone, "sop", 1)
    single = write_shard(tmp_path / "single", [[[10, 11], [12], [13, 14]]])
    read(single, "sop", 3)
    with pytest.raises(UserError, match="found in another document"):
        read(single, "nsp", 3)


@pytest.mark.parametrize("length", [2, 3, 4])
def test_a_sequence_without_room_for_a_pair_is_refused(tmp_path, length):
    shard = write_shard(tmp_path / "text", [[[10, 11], [12, 13]], [[14, 15], [16]]])
    objective = MaskedObjective(length, 100, CLS, MASK, (CLS, SEP, MASK))
    with pytest.raises(UserError, match=r"choose a longer data\.sequence_length"):
        SentencePairs([shard], "sop", objective, SEP).read(np.arange(1), [("key",)])
