import os
import resource
import struct

import numpy as np
import pytest

from data_prep import shards
from data_prep.shards import Shard, ShardWriter, bin_path, idx_path, token_dtype
from pipeline.common.errors import UserError
from tests.data_prep.preparing import few_descriptors
from tests.shards import add_documents, write_shard

GPT = [[[1, 2, 3]], [[4]], [[]], [[5, 6, 7, 8]]]
BERT = [[[1, 2], [3]], [], [[4], [], [5, 6, 7]], [[8]]]
HEADER = 34


@pytest.fixture
def indexed_dataset():
    return pytest.importorskip("megatron.core.datasets.indexed_dataset")


def megatron_shard(indexed_dataset, prefix, documents, dtype):
    builder = indexed_dataset.IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for document in documents:
        builder.add_document(np.array([token for ids in document for token in ids]), [len(ids) for ids in document])
    builder.finalize(f"{prefix}.idx")


@pytest.mark.parametrize("documents", [GPT, BERT, []], ids=["gpt", "bert", "empty"])
@pytest.mark.parametrize("vocab_size", [100, 70_000])
def test_megatron_core_reads_what_is_written_and_writes_the_same_bytes(tmp_path, indexed_dataset, vocab_size, documents):
    shard = write_shard(tmp_path / "ours", documents, vocab_size)
    sequences = [ids for document in documents for ids in document]
    if sequences:  # it maps no empty file
        theirs = indexed_dataset.IndexedDataset(str(tmp_path / "ours"), mmap=True)
        assert [theirs[i].tolist() for i in range(len(theirs))] == sequences
        assert theirs.document_indices.tolist() == shard.document_starts.tolist()

    megatron_shard(indexed_dataset, tmp_path / "theirs", documents, indexed_dataset.DType.optimal_dtype(vocab_size))
    for kind in (".bin", ".idx"):
        assert (tmp_path / f"ours{kind}").read_bytes() == (tmp_path / f"theirs{kind}").read_bytes(), kind


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64])
def test_what_megatron_core_writes_is_read_in_every_integer_dtype(tmp_path, indexed_dataset, dtype):
    megatron_shard(indexed_dataset, tmp_path / "x", BERT, dtype)
    shard = Shard(tmp_path / "x")
    assert shard.tokens.dtype == dtype and shard.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert shard.lengths.tolist() == [2, 1, 1, 0, 3, 1]
    assert shard.document_starts.tolist() == [0, 2, 2, 5, 6]
    assert (shard.size, shard.sequences, shard.documents) == (8, 6, 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_are_refused(tmp_path, indexed_dataset, dtype):
    megatron_shard(indexed_dataset, tmp_path / "x", [[[1.0]]], dtype)
    with pytest.raises(UserError, match="no token ids"):
        Shard(tmp_path / "x")


def test_a_writer_counts_what_it_wrote(tmp_path):
    with ShardWriter(tmp_path / "x.bin.partial", tmp_path / "x.idx.partial", 10) as writer:
        for document in BERT:
            add_documents(writer, [document])
        writer.add_documents(np.array([8, 8], dtype=np.uint16), np.array([2]), np.array([1]))
    assert (writer.documents, writer.sequences, writer.tokens) == (5, 7, 10)
    assert writer.histogram.tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 3, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.bin.partial", "x.idx.partial"]


def test_a_name_with_dots_stays_whole(tmp_path):
    write_shard(tmp_path / "text.v1.2", GPT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.v1.2.bin", "text.v1.2.idx"]
    assert Shard(tmp_path / "text.v1.2").size == 8


def test_two_bytes_hold_vocabularies_below_megatrons_threshold():
    assert token_dtype(65_499) == np.uint16
    assert token_dtype(65_500) == np.int32


@pytest.mark.parametrize("bad", [100, 65_536, -1, np.array([3, 65_536]), np.array([-1])])
def test_an_id_beyond_the_vocabulary_is_refused_before_it_wraps(tmp_path, bad):
    with (
        pytest.raises(UserError, match=r"x\.bin: token id (100|65536|-1) is beyond"),
        ShardWriter(tmp_path / "x.bin", tmp_path / "x.idx", 100) as writer,
    ):
        ids = np.append(1, bad)
        writer.add_documents(ids, np.array([1, len(ids) - 1]), np.array([2]))
    assert not (tmp_path / "x.idx").exists()


@pytest.mark.parametrize("kind", [".bin", ".idx"])
@pytest.mark.parametrize("change", ["shorter", "longer", "gone"])
def test_a_shard_whose_files_do_not_fit_is_refused_when_opened(tmp_path, kind, change):
    write_shard(tmp_path / "shard", BERT)
    path = tmp_path / f"shard{kind}"
    content = path.read_bytes()
    path.unlink()
    if change != "gone":
        path.write_bytes(content[:-1] if change == "shorter" else content + b"\0")
    with pytest.raises(UserError, match=f"shard\\{kind}"):
        Shard(tmp_path / "shard")


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (0, b"X", "not an MMIDIDX index"),
        (9, struct.pack("<Q", 2), "version 2"),
        (17, b"\x09", "dtype code 9"),
        (HEADER + 6 * 4, struct.pack("<q", 4), "begin at byte 4"),
        (HEADER + 6 * 12, struct.pack("<q", 1), "documents do not end"),
        (HEADER + 6 * 12 + 4 * 8, struct.pack("<q", 7), "documents do not end"),
        (HEADER + 5 * 4, struct.pack("<i", -1), "last sequence has -1"),
    ],
)
def test_an_index_that_is_not_right_at_its_ends_is_refused_by_name(tmp_path, place, value, words):
    write_shard(tmp_path / "shard", BERT)
    path = tmp_path / "shard.idx"
    content = path.read_bytes()
    path.write_bytes(content[:place] + value + content[place + len(value) :])
    with pytest.raises(UserError, match=f"shard.idx: .*{words}"):
        Shard(tmp_path / "shard")


def test_opening_reads_a_few_bytes_whatever_the_number_of_sequences(tmp_path):
    """A sparse index of a billion sequences, 20 GB that are not on the disk."""
    sequences = 10**9
    with open(tmp_path / "x.idx", "wb") as file:
        file.write(struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, 8, sequences, 2))
        file.seek(HEADER + 4 * sequences - 4)
        file.write(struct.pack("<i", 5))
        file.seek(HEADER + 12 * sequences - 8)
        file.write(struct.pack("<qqq", 30, 0, sequences))
    (tmp_path / "x.bin").write_bytes(bytes(40))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shard = Shard(tmp_path / "x")
    assert (shard.size, shard.sequences) == (20, sequences)
    assert shard.lengths[-1] == 5 and shard.document_at(sequences - 1) == 0
    # ru_maxrss is in KiB; the index alone is 12 million of them.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_boundaries_are_where_documents_begin(tmp_path):
    shard = write_shard(tmp_path / "x", BERT)
    # Documents hold tokens 0-2, none, 3-6 and 7.
    assert shard.boundaries(0, 8).tolist() == [3, 7]
    assert shard.boundaries(0, 4).tolist() == [3]
    assert shard.boundaries(3, 7).tolist() == []
    assert shard.boundaries(2, 4).tolist() == [3]
    assert [shard.document_at(sequence) for sequence in range(6)] == [0, 0, 2, 2, 2, 3]


def test_arrays_stay_valid_when_their_shard_is_gone_and_its_map_given_up(tmp_path):
    shard = write_shard(tmp_path / "a", BERT)
    arrays = shard.tokens, shard.lengths, shard.offsets, shard.document_starts
    del shard
    shards._mapped.cache_clear()
    bin_path(tmp_path / "a").unlink()
    idx_path(tmp_path / "a").unlink()
    expected = [1, 2, 3, 4, 5, 6, 7, 8], [2, 1, 1, 0, 3, 1], [0, 4, 6, 8, 8, 14], [0, 2, 2, 5, 6]
    assert tuple(array.tolist() for array in arrays) == expected
    assert not any(array.flags.writeable for array in arrays)


def test_thousands_of_shards_leave_file_descriptors_free(tmp_path):
    write_shard(tmp_path / "0", GPT)
    for number in range(1, 2000):
        for path in (bin_path(tmp_path / "0"), idx_path(tmp_path / "0")):
            os.link(path, path.with_name(f"{number}{path.suffix}"))
    with few_descriptors():
        opened = [Shard(tmp_path / str(number)) for number in range(2000)]
        assert sum(int(shard.tokens.sum()) + int(shard.lengths.sum()) for shard in opened) == 2000 * (36 + 8)
