"""Prepared data that changed after its preparation: damage of every kind, found at the start, when it is read, or later."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_prep.manifest import MANIFEST, TRAIN, PreparedData
from data_prep.shards import Shard, bin_path, idx_path
from data_prep.stages.verify import damaged
from data_prep.storage import block_digests as blocks
from data_prep.storage.block_digests import BLOCK
from pipeline.common.errors import UserError
from pipeline.common.files import file_digest, json_digest
from pipeline.data import checks
from pipeline.data.checks import CheckedFile, DataChecks
from pipeline.data.corpora import open_batches
from pipeline.data.examples import Windows
from pipeline.data.objectives import CausalObjective, MaskedObjective
from pipeline.data.pairs import SentencePairs
from tests.damages import IN_PLACE, flip, in_place
from tests.shards import write_prepared

A_BLOCK = BLOCK // 2
"""Tokens."""
LENGTH = 127


def documents(seed, blocks, length=300):
    """So many tokens, the last document shorter; ids 5 to 98."""
    ids = np.random.default_rng(seed).integers(5, 99, blocks * A_BLOCK + A_BLOCK // 3)
    return [[ids[begin : begin + length]] for begin in range(0, len(ids), length)]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Two shards of one size, of 13 blocks, and a small one in another corpus."""
    corpora = {
        "wiki": ([documents(1, 12), documents(2, 12)], [documents(3, 1)]),
        "books": ([documents(4, 1)], [documents(5, 1)]),
    }
    return write_prepared(tmp_path_factory.mktemp("original"), corpora).directory


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "data")


def look(folder, corpora=("wiki", "books"), known=(), part=0, parts=1):
    """What a run does before its first step."""
    looked = DataChecks(PreparedData(folder), corpora, part, parts)
    looked.at_start(known, ("key",))
    return looked


@pytest.fixture
def sampled(monkeypatch):
    """Compares no shard whole at the start."""
    monkeypatch.setattr(checks, "COMPARED_AT_START", 0)


def zero(path, begin, size):
    with open(path, "r+b") as file:
        file.seek(begin)
        file.write(bytes(size))


def swap(one, other):
    third = one.with_name("third")
    one.rename(third)
    other.rename(one)
    third.rename(other)


def rewrite_index(path, change):
    """Change the arrays of an index, each of which keeps its length."""
    content = bytearray(path.read_bytes())
    sequences, starts = (int.from_bytes(content[place : place + 8], "little") for place in (18, 26))
    places = np.cumsum([34, 4 * sequences, 8 * sequences, 8 * starts])
    kinds = (np.int32, np.int64, np.int64)
    arrays = [np.frombuffer(content[a:b], kind).copy() for a, b, kind in zip(places[:-1], places[1:], kinds, strict=True)]
    change(*arrays)
    path.write_bytes(content[:34] + b"".join(array.tobytes() for array in arrays))


def move_offsets(lengths, offsets, starts):
    offsets[1:-1] += 2


def move_documents(lengths, offsets, starts):
    starts[1:-1] = np.maximum(starts[1:-1] - 1, 0)


def permute_lengths(lengths, offsets, starts):
    # The first and the last stay, and what stands between them has its old length in all.
    lengths[1], lengths[2] = lengths[1] - 7, lengths[2] + 7
    offsets[2] -= 14


def flip_type(path):
    content = bytearray(path.read_bytes())
    assert content[17] == 8
    content[17] = 3  # int16, of the same size
    path.write_bytes(content)


def swap_blocks(path):
    content = path.read_bytes()
    path.write_bytes(content[:BLOCK] + content[2 * BLOCK : 3 * BLOCK] + content[BLOCK : 2 * BLOCK] + content[3 * BLOCK :])


def cut(size):
    return lambda path: os.truncate(path, size)


WIKI = "wiki-train-0"
OF_IDS = {
    "a bit of the first block": lambda ids: flip(ids, 3),
    "a bit in the middle": lambda ids: flip(ids, 6 * BLOCK + 11),
    "a bit of the last block": lambda ids: flip(ids, 12 * BLOCK + 5),
    "a page of zeros": lambda ids: zero(ids, 6 * BLOCK + 4096, 4096),
    "all zeros": lambda ids: zero(ids, 0, ids.stat().st_size),
    "two shards' ids swapped": lambda ids: swap(ids, ids.with_name("wiki-train-1.bin")),
    "two blocks swapped": swap_blocks,
    "a link to another shard": in_place(lambda ids: ids.symlink_to("wiki-train-1.bin")),
}
"""What may become of the ids of the first shard."""
UNIGRAMS, VOCABULARY = "shards/wiki/unigrams.npy", "tokenizer/vocab.txt"
OF_FILES = {
    "ids cut off": (f"{WIKI}.bin", cut(5 * BLOCK)),
    "ids that go on": (f"{WIKI}.bin", cut(20 * BLOCK)),
    "ids gone": (f"{WIKI}.bin", Path.unlink),
    "ids a link loop": (f"{WIKI}.bin", IN_PLACE["a link loop"]),
    "ids a directory": (f"{WIKI}.bin", IN_PLACE["a directory"]),
    "ids a pipe": (f"{WIKI}.bin", IN_PLACE["a pipe"]),
    "an index cut off": (f"{WIKI}.idx", cut(300)),
    "an empty index": (f"{WIKI}.idx", cut(0)),
    "an index a pipe": (f"{WIKI}.idx", IN_PLACE["a pipe"]),
    "another shard's index": (f"{WIKI}.idx", lambda path: shutil.copy(path.with_name("books-train-0.idx"), path)),
    "another type of ids": (f"{WIKI}.idx", flip_type),
    "offsets elsewhere": (f"{WIKI}.idx", lambda path: rewrite_index(path, move_offsets)),
    "documents elsewhere": (f"{WIKI}.idx", lambda path: rewrite_index(path, move_documents)),
    "other lengths": (f"{WIKI}.idx", lambda path: rewrite_index(path, permute_lengths)),
    "held-out ids": ("books-heldout-0.bin", lambda path: flip(path, 7)),
    "digests of blocks": (f"{WIKI}.blocks", lambda path: flip(path, 40)),
    "digests of blocks cut off": (f"{WIKI}.blocks", cut(16)),
    "digests of blocks gone": (f"{WIKI}.blocks", Path.unlink),
    "digests of blocks a pipe": (f"{WIKI}.blocks", IN_PLACE["a pipe"]),
    "counts of ids": (UNIGRAMS, lambda path: flip(path, -8 * 50)),
    "counts of ids gone": (UNIGRAMS, Path.unlink),
    "counts of ids a pipe": (UNIGRAMS, IN_PLACE["a pipe"]),
    "the tokenizer": (VOCABULARY, lambda path: flip(path, -1)),
    "the tokenizer a directory": (VOCABULARY, IN_PLACE["a directory"]),
}


def edit(folder, change, *, sign=False):
    path = folder / MANIFEST
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content | ({"digest": json_digest(content)} if sign else {})))


OF_THE_MANIFEST = {
    "tokens": lambda m: m["corpora"][0]["splits"][TRAIN]["shards"][0].update(tokens=7),
    "a weight": lambda m: m["corpora"][0].update(weight=9.0),
    "a prefix": lambda m: m["corpora"][0]["splits"][TRAIN]["shards"][0].update(prefix="wiki-train-1"),
    "two shards in another order": lambda m: m["corpora"][0]["splits"][TRAIN]["shards"].reverse(),
    "a shard less": lambda m: m["corpora"][0]["splits"][TRAIN]["shards"].pop(),
    "the vocabulary": lambda m: m.update(vocab_size=90),
    "the fingerprint": lambda m: m.update(fingerprint="other"),
    "a file's digest": lambda m: m["files"].update({f"{WIKI}.bin": "0" * 32}),
    "no digests of blocks": lambda m: m["corpora"][0]["splits"][TRAIN]["shards"][0].update(blocks=None),
}


def test_what_did_not_change_is_taken(folder):
    checked = look(folder)
    assert (checked.left, checked.remarks) == ([], []) and len(checked.whole) == 5 * 3 + 2 + 1
    assert damaged(PreparedData(folder)) == []


@pytest.mark.parametrize("kind", OF_IDS)
def test_changed_ids_are_found_by_the_first_look_where_there_is_room_to_compare_them(folder, kind):
    OF_IDS[kind](folder / f"{WIKI}.bin")
    with pytest.raises(UserError, match=r"wiki-train-[01]\.bin: bytes [\d,]+ to [\d,]+ are not those that were prepared"):
        look(folder)
    assert damaged(PreparedData(folder))


@pytest.mark.parametrize("kind", OF_FILES)
@pytest.mark.parametrize("compared", [0, 1 << 30], ids=["sampled", "whole"])
def test_other_changed_files_are_found_by_the_first_look_at_any_size(folder, kind, compared, monkeypatch):
    monkeypatch.setattr(checks, "COMPARED_AT_START", compared)
    file, change = OF_FILES[kind]
    change(folder / file)
    # An index may be said to be wrong by its ids.
    with pytest.raises(UserError, match=re.escape(Path(file).stem)):
        look(folder)


@pytest.mark.parametrize("kind", OF_THE_MANIFEST)
def test_a_changed_manifest_is_refused(folder, kind):
    edit(folder, OF_THE_MANIFEST[kind])
    with pytest.raises(UserError, match=r"manifest\.json: was changed after it was written"):
        PreparedData(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_bytes(b"\xff\xfe{}"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {"digest": 7})),
        IN_PLACE["a link loop"],
        IN_PLACE["a directory"],
        IN_PLACE["a pipe"],
    ],
    ids=["cut off", "a list", "deep", "no text", "empty", "a number as digest", "a link loop", "a directory", "a pipe"],
)
def test_a_manifest_that_is_none_is_refused(folder, change):
    change(folder / MANIFEST)
    with pytest.raises(UserError, match=r"manifest\.json: (not a manifest|cannot be read)"):
        PreparedData(folder)


@pytest.mark.parametrize("kind", ["tokens", "a prefix", "a shard less", "the vocabulary", "no digests of blocks"])
def test_a_manifest_that_fits_itself_and_not_its_files_is_refused(folder, kind):
    """As one that was put together by hand, with a digest of its own."""
    edit(folder, OF_THE_MANIFEST[kind], sign=True)
    if kind == "no digests of blocks":
        # What is left then is to compare the whole file with its digest.
        flip(folder / f"{WIKI}.bin", 6 * BLOCK)
    with pytest.raises(UserError):
        look(folder)


SEEN_WHEN_READ = [kind for kind in OF_IDS if kind not in ("a bit of the first block", "a bit of the last block")]


@pytest.mark.parametrize("kind", SEEN_WHEN_READ)
def test_a_block_is_compared_before_its_first_use(folder, kind):
    data = PreparedData(folder)
    shard = data.open(data.corpora[0], TRAIN)[0]
    OF_IDS[kind](folder / f"{WIKI}.bin")
    whole = [np.fromfile(folder / f"{WIKI}.bin", np.uint16), np.fromfile(bin_path(folder / WIKI), np.uint16)]
    refused = 0
    for begin in range(0, shard.size - LENGTH, 5 * LENGTH):
        try:
            ids = shard.read(begin, begin + LENGTH)
        except UserError as error:
            assert "wiki-train-0.bin: bytes" in str(error)
            refused += 1
        else:
            assert np.array_equal(ids, whole[0][begin : begin + LENGTH])
    assert refused > 0
    if kind.startswith("a "):
        return
    assert refused >= shard.size / A_BLOCK / 13


@pytest.mark.parametrize("kind", OF_IDS)
@pytest.mark.usefixtures("sampled")
def test_what_the_first_look_passes_over_is_found_when_the_rest_is_compared(folder, kind):
    OF_IDS[kind](folder / f"{WIKI}.bin")
    try:
        checked = look(folder, ("wiki",))
    except UserError as error:
        # A sample may find it, and must where it holds the head and the tail.
        assert "wiki-train" in str(error)
        return
    assert kind in ("a bit in the middle", "a page of zeros", "two blocks swapped")
    found = []
    for file in checked.left:
        try:
            file.compare()
        except UserError as error:
            found.append(str(error))
    assert len(found) == 1 and "wiki-train-0.bin: bytes" in found[0]


@pytest.mark.usefixtures("sampled")
def test_head_and_tail_are_among_what_is_sampled(folder):
    for kind in ("a bit of the first block", "a bit of the last block"):
        other = shutil.copytree(folder, folder.with_name(kind))
        OF_IDS[kind](other / f"{WIKI}.bin")
        with pytest.raises(UserError, match=r"wiki-train-0\.bin: bytes"):
            look(other)


def test_what_was_compared_is_not_read_again_while_the_process_lives(folder, monkeypatch):
    data = PreparedData(folder)
    DataChecks(data, ("wiki", "books")).at_start((), ())
    monkeypatch.setattr("data_prep.storage.block_digests._digest", lambda block: pytest.fail("hashed again"))
    data.open(data.corpora[0], TRAIN)[0].read(6 * A_BLOCK, 7 * A_BLOCK)


def test_a_block_is_hashed_once_however_often_it_is_read(folder, monkeypatch):
    hashed, digest = [], blocks._digest
    monkeypatch.setattr(blocks, "_digest", lambda block: hashed.append(len(block)) or digest(block))
    data = PreparedData(folder)
    shard = data.open(data.corpora[0], TRAIN)[0]
    for begin in (10, 10, 500, A_BLOCK - 3, A_BLOCK + 9):
        shard.read(begin, begin + LENGTH)
    assert hashed == [BLOCK, BLOCK]


def test_files_that_were_found_whole_are_known_again_by_inode_size_and_time(folder, monkeypatch):
    known = set(look(folder).whole)
    monkeypatch.setattr(CheckedFile, "compare", lambda file: pytest.fail(f"{file.path} was read again"))
    assert set(look(folder, known=known).whole) == known
    monkeypatch.undo()
    # Touched and equal: compared again, and found whole.
    os.utime(folder / f"{WIKI}.bin", ns=(1, 1))
    (again,) = set(look(folder, known=known).whole) - known
    assert again.path == str(folder / f"{WIKI}.bin")
    # Replaced by an equal file.
    shutil.copy2(folder / f"{WIKI}.bin", folder / "copy")
    os.replace(folder / "copy", folder / f"{WIKI}.bin")
    assert len(set(look(folder, known=known | {again}).whole) - known - {again}) == 1
    # Changed.
    flip(folder / f"{WIKI}.bin", 6 * BLOCK)
    with pytest.raises(UserError, match="wiki-train-0"):
        look(folder, known=known)


def test_a_file_that_is_known_is_still_compared_when_it_is_read(folder):
    known = look(folder).whole
    path = folder / f"{WIKI}.bin"
    status = path.stat()
    flip(path, 6 * BLOCK)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    data = PreparedData(folder)
    DataChecks(data, ("wiki",)).at_start(set(known), ())
    with pytest.raises(UserError, match=r"wiki-train-0\.bin: bytes 393,216 to 458,752"):
        data.open(data.corpora[0], TRAIN)[0].read(6 * A_BLOCK, 6 * A_BLOCK + 1)


def test_processes_share_the_files_and_one_of_them_meets_the_damage(folder):
    paths = [found.path for part in range(3) for found in look(folder, part=part, parts=3).whole]
    assert len(paths) == len(set(paths)) == len(look(folder).whole)
    OF_IDS["a bit in the middle"](folder / f"{WIKI}.bin")
    met = 0
    for part in range(3):
        try:
            look(folder, part=part, parts=3)
        except UserError:
            met += 1
    assert met == 1


def test_corpora_that_are_not_read_are_not_looked_at(folder):
    for path in folder.glob("books-*"):
        path.unlink()
    assert look(folder, corpora=("wiki",)).left == []


def as_earlier_versions_wrote_it(folder):
    def change(content):
        del content["digest"]
        for corpus in content["corpora"]:
            for split in corpus["splits"].values():
                for shard in split["shards"]:
                    del shard["blocks"], content["files"][f"{shard['prefix']}.blocks"]

    edit(folder, change)
    for path in folder.glob("*.blocks"):
        path.unlink()
    return folder


@pytest.mark.parametrize("kind", OF_IDS)
def test_a_folder_of_an_earlier_version_is_compared_by_whole_files(folder, kind, monkeypatch):
    as_earlier_versions_wrote_it(folder)
    checked = look(folder)
    assert checked.left == [] and len(checked.remarks) == 2 and "earlier version" in checked.remarks[0]
    OF_IDS[kind](folder / f"{WIKI}.bin")
    with pytest.raises(UserError, match=r"wiki-train-[01]\.bin: its bytes are not those that were prepared"):
        look(folder)
    monkeypatch.setattr(checks, "COMPARED_AT_START", 0)
    with pytest.raises(UserError, match=r"wiki-train-[01]\.bin: its bytes are not those"):
        for file in look(folder).left:
            file.compare()


@pytest.mark.parametrize("kind", ["tokens", "a prefix", "a shard less", "the vocabulary"])
def test_what_a_manifest_of_an_earlier_version_counts_is_held_against_the_files(folder, kind):
    edit(as_earlier_versions_wrote_it(folder), OF_THE_MANIFEST[kind])
    with pytest.raises(UserError):
        look(folder)


@pytest.mark.parametrize(
    ("dtype", "code", "wrong"), [(np.uint16, 8, 100), (np.uint16, 8, 65535), (np.int32, 4, -1), (np.int64, 5, -9)]
)
@pytest.mark.parametrize("form", ["windows", "pairs"])
def test_an_id_beyond_the_vocabulary_is_refused_by_the_shard_s_name(tmp_path, dtype, code, wrong, form):
    """Of a shard without digests, as there is no other way that one comes there."""
    data = write_prepared(tmp_path, {"wiki": ([[[[10] * 9, [11] * 9, [12] * 9]] * 40], [[[[13] * 30]]])})
    shard = data.open(data.corpora[0], TRAIN)[0]
    ids = shard.tokens.astype(dtype)
    ids[ids == 11] = wrong
    ids.tofile(bin_path(shard.prefix))
    content = bytearray(idx_path(shard.prefix).read_bytes())
    content[17] = code
    idx_path(shard.prefix).write_bytes(content)
    rewrite_index(idx_path(shard.prefix), lambda lengths, offsets, starts: np.multiply(offsets, ids.itemsize // 2, out=offsets))
    opened = Shard(shard.prefix, vocab_size=100)
    with pytest.raises(
        UserError, match=rf"wiki-train-0\.bin: token id {wrong}, between tokens .* beyond the vocabulary of 100"
    ):
        if form == "windows":
            Windows([opened], 30, 30).read(np.arange(30))
        else:
            objective = MaskedObjective(24, 100, 2, 4, (0, 1, 2, 3, 4))
            SentencePairs([opened], "sop", objective, 3).read(np.arange(40), [("key", n) for n in range(40)])


def test_pairs_of_a_damaged_shard_are_refused(tmp_path):
    sentences = [[[int(id)] * 40 for id in document[0]] for document in documents(1, 1)[:100]]
    data = write_prepared(tmp_path, {"wiki": ([sentences], [sentences])})
    path = data.directory / f"{WIKI}.bin"
    flip(path, path.stat().st_size // 2)
    objective = MaskedObjective(128, 100, 2, 4, (0, 1, 2, 3, 4))
    with pytest.raises(UserError, match=r"wiki-train-0\.bin: bytes"):
        batches, _ = open_batches(data, {"wiki": 1.0}, objective, 1, within_documents=False, pairs="sop")
        batches.training(np.arange(500))


@pytest.mark.parametrize("where", ["train", "heldout"])
def test_text_with_the_padding_token_is_refused_where_positions_are_counted_without_it(tmp_path, where):
    texts = {"train": [[10] * 50], "heldout": [[13] * 30]}
    texts[where][0][15] = 1
    data = write_prepared(tmp_path, {"wiki": ([[texts["train"]]], [[texts["heldout"]]])})
    objective = MaskedObjective(10, 100, 2, 4, (0, 1, 2, 3, 4))
    message = "the text of the corpus 'wiki' holds the padding token, id 1"
    if where == "train":
        # Known from the counts of ids, before anything is read.
        with pytest.raises(UserError, match=message):
            open_batches(data, {"wiki": 1.0}, objective, 7, within_documents=False, padding_id=1)
    else:
        _, heldout = open_batches(data, {"wiki": 1.0}, objective, 7, within_documents=False, padding_id=1)
        with pytest.raises(UserError, match=message):
            heldout.heldout(np.arange(3))
    # Other families read it like any other token.
    training, heldout = open_batches(data, {"wiki": 1.0}, CausalObjective(10), 7, within_documents=False)
    assert (training if where == "train" else heldout).heldout(np.arange(2)).input_ids.eq(1).any()


def test_the_digests_of_blocks_are_those_of_the_bytes(folder):
    content, digests = (folder / f"{WIKI}.bin").read_bytes(), (folder / f"{WIKI}.blocks").read_bytes()
    expected = [hashlib.blake2b(content[b : b + BLOCK], digest_size=16).digest() for b in range(0, len(content), BLOCK)]
    assert digests == b"".join(expected) and len(expected) == 13
    assert file_digest(folder / f"{WIKI}.blocks") == PreparedData(folder).manifest.files[f"{WIKI}.blocks"]
