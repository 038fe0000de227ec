import numpy as np
import pytest

from data_prep.errors import UserError
from data_prep.shards import Shard, ShardWriter, token_dtype

DOCUMENTS = [[1, 2, 3], [4], [], [5, 6, 7, 8]]


def write(prefix, vocab_size=100):
    with ShardWriter(prefix, vocab_size) as writer:
        for ids in DOCUMENTS:
            writer.add_document(ids)


@pytest.mark.parametrize("vocab_size", [100, 70_000])
def test_megatron_core_reads_what_is_written_and_writes_the_same_bytes(tmp_path, vocab_size):
    indexed_dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    write(tmp_path / "ours", vocab_size)
    theirs = indexed_dataset.IndexedDataset(str(tmp_path / "ours"), mmap=True)
    assert [theirs[i].tolist() for i in range(len(theirs))] == DOCUMENTS
    assert theirs.document_indices.tolist() == [0, 1, 2, 3, 4]

    builder = indexed_dataset.IndexedDatasetBuilder(
        str(tmp_path / "theirs.bin"), dtype=indexed_dataset.DType.optimal_dtype(vocab_size)
    )
    for ids in DOCUMENTS:
        builder.add_document(np.array(ids), [len(ids)])
    builder.finalize(str(tmp_path / "theirs.idx"))
    for kind in (".bin", ".idx"):
        assert (tmp_path / f"ours{kind}").read_bytes() == (tmp_path / f"theirs{kind}").read_bytes(), kind


def test_tokens_are_one_flat_array_over_all_documents(tmp_path):
    write(tmp_path / "shard")
    shard = Shard(tmp_path / "shard")
    assert shard.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert shard.lengths.tolist() == [3, 1, 0, 4]


def test_two_bytes_hold_vocabularies_below_megatrons_threshold():
    assert token_dtype(65_499) == np.uint16
    assert token_dtype(65_500) == np.int32


@pytest.mark.parametrize("bad", [100, 65_536, -1])
def test_an_id_beyond_the_vocabulary_is_refused_before_it_wraps(tmp_path, bad):
    with pytest.raises(UserError, match="beyond"), ShardWriter(tmp_path / "shard", 100) as writer:
        writer.add_document([bad])
    assert not (tmp_path / "shard.idx").exists()


@pytest.mark.parametrize("kind", [".bin", ".idx"])
def test_a_truncated_shard_is_refused_when_opened(tmp_path, kind):
    write(tmp_path / "shard")
    path = tmp_path / f"shard{kind}"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"shard\\{kind}"):
        Shard(tmp_path / "shard")
