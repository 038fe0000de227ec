import logging
import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data_prep.encoding import libraries, stress
from data_prep.inspection import describe
from data_prep.jobs.job import Job
from data_prep.manifest import HELDOUT, SPLITS, TRAIN, PreparedData
from data_prep.prepare import prepare
from data_prep.shards import Shard
from data_prep.stages import provide_tokenizer as tokenizer_stage
from data_prep.stages import tokenize as tokenizing
from data_prep.stages.accept import Accept
from data_prep.stages.verify import damaged
from data_prep.text.sentences import split_sentences
from pipeline.common.errors import UserError
from pipeline.data.checks import DataChecks
from tests.conftest import make_documents
from tests.data_prep.encoding.tokenizers_of_all_kinds import wrong_on
from tests.data_prep.preparing import BYTE_LEVEL, preparation, write_jsonl
from tests.shards import write_shard


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    """Documents of one to six sentences."""
    words = make_documents(900, seed=3)
    texts = [" ".join(text.capitalize() for text in words[n : n + 1 + n // 3 % 6]) for n in range(0, 894, 3)]
    return write_jsonl(tmp_path_factory.mktemp("stories") / "text.jsonl", texts), texts


@pytest.mark.parametrize(("text", "expected"), [(" \n ", [" \n "]), (" One. Two. ", ["One.", "Two."])])
def test_a_text_without_a_sentence_is_a_sequence(text, expected):
    tokenize = tokenizing.Tokenize(None, SimpleNamespace(config=SimpleNamespace(sequences="sentence"), slices=[], inputs=[]),
                                   None, None, [], None)  # fmt: skip
    assert tokenize._sequences(text, "en") == expected


@pytest.fixture(scope="module")
def of_sentences(stories, tmp_path_factory):
    """Shards for BERT: a sequence is a sentence."""
    corpus = {"files": [stories[0]], "heldout_fraction": 0.2}
    tokenizer = {"vocab_size": 200, "algorithm": "wordpiece", "family": "bert"}
    return prepare(preparation(tmp_path_factory.mktemp("sentences"), corpus, tokenizer=tokenizer, sequences="sentence"))


def test_a_sentence_is_a_sequence_and_a_document_keeps_its_sentences(of_sentences, stories):
    """Read by megatron-core, so that it is Megatron's own idea of a document and of a sentence that holds."""
    indexed_dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    tokenizer = of_sentences.tokenizer
    found = []
    for split in SPLITS:
        for prefix in of_sentences.shards(of_sentences.corpora[0], split):
            theirs = indexed_dataset.IndexedDataset(str(prefix), mmap=True)
            for begin, end in pairwise(theirs.document_indices):
                sequences = [theirs[i].tolist() for i in range(begin, end)]
                assert sequences[-1].pop() == tokenizer.eos_id
                assert all(tokenizer.eos_id not in sequence for sequence in sequences)
                found.append(tuple(tuple(sequence) for sequence in sequences))
    expected = [tuple(tuple(ids) for ids in tokenizer.encode_batch(split_sentences(text))) for text in stories[1]]
    assert sorted(found) == sorted(expected)
    assert {len(document) for document in found} == {1, 2, 3, 4, 5, 6}


@pytest.mark.parametrize(("languages", "expected"), [([], "en"), (["de"], "de"), (["de", "en"], "en")])
def test_sentences_end_by_the_rules_of_the_corpus_s_one_language(tmp_path, monkeypatch, languages, expected):
    asked = set()
    monkeypatch.setattr(tokenizing, "split_sentences", lambda text, language: asked.add(language) or [text])
    text = "Der Junge ging zum Fluss hinunter, setzte sich auf einen Stein und dachte an das Wort des Vaters, Nummer {}."
    (tmp_path / "text.txt").write_text("\n\n".join(text.format(number) for number in range(100)))
    corpus = {"files": [str(tmp_path / "text.txt")], "heldout_fraction": 0.2, "languages": languages}
    prepare(preparation(tmp_path / "out", corpus, sequences="sentence"))
    assert asked == {expected}


def test_the_manifest_counts_sequences(of_sentences):
    entry = of_sentences.corpora[0].splits[TRAIN]
    shards = [Shard(prefix) for prefix in of_sentences.shards(of_sentences.corpora[0], TRAIN)]
    assert [shard.sequences for shard in entry.shards] == [shard.sequences for shard in shards]
    assert entry.documents == sum(shard.documents for shard in shards) < sum(shard.sequences for shard in shards)


@pytest.mark.slow
@pytest.mark.parametrize("sequences", ["document", "sentence"])
def test_shards_are_the_same_whichever_library_encodes_and_where_it_fails_in_a_part_and_unseen_in_another(
    tmp_path, monkeypatch, caplog, sequences
):
    for name in ("_MIXED", "_OF_BYTES", "_OF_UNICODE", "_OF_IDS"):
        monkeypatch.setattr(stress, name, 50)
    monkeypatch.setattr(stress, "_LONG", (33, 300))
    texts = [f"{text.capitalize()}. {text}" for text in make_documents(400, seed=5)]
    marked = 128  # a document that is compared, being a 64th
    unseen = 3  # in another part, and not compared
    for wrong in (marked, unseen):
        texts[wrong] += " zyxwvut"
    heldout, train = (write_jsonl(tmp_path / f"{n}.jsonl", some) for n, some in enumerate((texts[:100], texts[100:])))
    caplog.set_level(logging.INFO, "data_prep")

    right, wrong_on_one = libraries.LIBRARIES["fastokens"], wrong_on("zyxwvut")

    def prepared(worth, library):
        monkeypatch.setattr(tokenizer_stage, "_WORTH_CHOOSING", worth)
        monkeypatch.setitem(libraries.LIBRARIES, "fastokens", library)
        caplog.clear()
        corpus = {"files": [train], "heldout_files": [heldout], "dedupe": "none"}
        output = tmp_path / f"{worth}-{library.__name__}"
        data = prepare(preparation(output, corpus, tokenizer=BYTE_LEVEL | {"family": "gpt2"}, sequences=sequences))
        files = {path.name: path.read_bytes() for path in data.directory.glob("shards/*/*")}
        return data, files, caplog.text

    slow, expected, _ = prepared(10**9, right)
    assert slow.manifest.encoding.choice.library == "tokenizers" and len(expected) == 9
    fast, files, logged = prepared(0, right)
    assert files == expected and fast.manifest.fingerprint == slow.manifest.fingerprint
    assert fast.manifest.encoding.choice.library == "fastokens" and fast.manifest.encoding.choice.refused == {}
    assert fast.manifest.encoding.compared == 1 + 400 // 64 + 1
    assert "encoded by fastokens" in logged and "encoded by fastokens" in describe(fast, 1)
    done = Job._do

    def killed(job, stage, item, advance):
        if getattr(stage, "_fast", True):
            return done(job, stage, item, advance)
        raise KeyboardInterrupt

    monkeypatch.setattr(Job, "_do", killed)
    with pytest.raises(KeyboardInterrupt):
        prepared(0, wrong_on_one)
    monkeypatch.setattr(Job, "_do", done)
    data, files, logged = prepared(0, wrong_on_one)
    assert files == expected
    choice = data.manifest.encoding.choice
    assert choice.library == "tokenizers" and data.manifest.encoding.compared == 0
    assert f"document {marked}: gives other ids" in choice.refused["fastokens"]
    assert "fastokens does not encode" in logged and "encoded by tokenizers" in logged
    assert logged.count("are encoded again") == 1


@pytest.fixture
def old_shards(prepared, tmp_path):
    """Two shards made elsewhere, with a tokenizer of 406 ids."""
    for name, documents in (("a", [[1, 2, 3], [4, 405]]), ("b", [[7, 8, 9, 10]])):
        write_shard(tmp_path / name, [[document] for document in documents], 406)
    shutil.copytree(prepared.directory / "tokenizer", tmp_path / "tokenizer")
    return tmp_path


def accepted(folder, **changes):
    corpus = {"name": "old", "shards": [str(folder / "a")], "heldout_shards": [str(folder / "b.idx")]} | changes
    return prepare(preparation(folder / "out", corpus, tokenizer={"path": str(folder / "tokenizer")}))


def test_shards_made_elsewhere_stay_where_they_are(old_shards):
    data = accepted(old_shards)
    (corpus,) = data.corpora
    assert [Shard(path).tokens.tolist() for path in data.shards(corpus, TRAIN)] == [[1, 2, 3, 4, 405]]
    assert [Shard(path).tokens.tolist() for path in data.shards(corpus, HELDOUT)] == [[7, 8, 9, 10]]
    assert corpus.splits[TRAIN].documents == 2
    assert not list(data.directory.rglob("*.bin"))
    share = np.full(5, 1 / 5)
    assert data.unigram_entropy(data.weights) == pytest.approx(-(share * np.log(share)).sum())


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["a.bin", "a.idx", "b.bin", "b.idx"])
@pytest.mark.parametrize("linked", [False, True], ids=["files", "links"])
def test_shards_made_elsewhere_that_change_later_are_found(old_shards, name, linked):
    if linked:
        (old_shards / "store").mkdir()
        for path in [*old_shards.glob("*.bin"), *old_shards.glob("*.idx")]:
            path.rename(old_shards / "store" / f"blob-{path.name}")
            path.symlink_to(old_shards / "store" / f"blob-{path.name}")
    data = accepted(old_shards)
    assert DataChecks(data, ("old",)).at_start((), ()) is None and damaged(data) == []
    flipped(old_shards / name)
    assert any(name in line for line in damaged(PreparedData(data.directory)))
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        DataChecks(PreparedData(data.directory), ("old",)).at_start((), ())


def test_a_shard_made_elsewhere_that_changes_while_it_is_taken_is_refused(old_shards, monkeypatch):
    """After it was hashed for the plan and before its ids are looked through."""
    looked_through = Accept.work
    monkeypatch.setattr(Accept, "work", lambda *arguments: flipped(old_shards / "a.bin") or looked_through(*arguments))
    with pytest.raises(UserError, match=r"a\.bin: changed since the preparation was started"):
        accepted(old_shards)


def test_an_id_that_the_tokenizer_lacks_is_refused(old_shards):
    write_shard(old_shards / "c", [[[5, 406]]], 1000)
    with pytest.raises(UserError, match=r"c\.bin: holds token id 406, and the tokenizer has 406"):
        accepted(old_shards, shards=[str(old_shards / "c")])
    assert not list((old_shards / "out").iterdir())


def test_shards_without_held_out_ones_are_refused(old_shards):
    with pytest.raises(ValueError, match="nothing is held out; give heldout_files, heldout_fraction or heldout_shards"):
        accepted(old_shards, heldout_shards=[])


def test_a_glob_that_covers_held_out_shards_does_not_train_on_them(old_shards):
    (corpus,) = accepted(old_shards, shards=[str(old_shards / "*.idx")]).corpora
    assert [Path(shard.prefix).name for shard in corpus.splits[TRAIN].shards] == ["a"]


def test_shards_and_text_make_one_blend(old_shards, corpus):
    corpora = (
        {"name": "old", "shards": [str(old_shards / "a")], "weight": 1},
        {"name": "new", "files": [str(corpus)], "heldout_fraction": 0.1, "weight": 3},
    )
    data = prepare(preparation(old_shards / "out", *corpora, tokenizer={"path": str(old_shards / "tokenizer")}))
    assert [(entry.name, entry.weight) for entry in data.corpora] == [("old", 1), ("new", 3)]
    tokens = [np.concatenate([Shard(path).tokens for path in data.shards(entry, TRAIN)]) for entry in data.corpora]
    old, new = (np.bincount(ids, minlength=406) / len(ids) for ids in tokens)
    for weights, blend in [
        (data.weights, 0.25 * old + 0.75 * new),
        ({"new": 1, "old": 1}, 0.5 * old + 0.5 * new),
        ({"old": 0.3}, old),
    ]:
        share = blend[blend > 0]
        assert data.unigram_entropy(weights) == pytest.approx(-(share * np.log(share)).sum())


@pytest.mark.parametrize("change", ["gone", "damaged", "another"])
def test_counts_of_tokens_that_are_not_there_are_asked_for_by_name(old_shards, change):
    data = accepted(old_shards)
    path = data.directory / "shards" / "old" / "unigrams.npy"
    path.unlink()
    if change == "damaged":
        path.write_bytes(b"")
    if change == "another":
        np.save(path, np.ones(100, dtype=np.int64))
    with pytest.raises(UserError, match=r"unigrams\.npy: .*prepare the text again"):
        data.unigram_entropy({"old": 1})
