"""Token shards in Megatron's MMIDIDX format: `NAME.bin` holds raw ids, `NAME.idx` says where they begin.

Index, little-endian: 9 bytes of magic, u64 version 1, u8 dtype code, u64 sequences, u64 length of the
document array; then i32 ids per sequence, i64 byte offset per sequence, i64 first sequence of each
document and, last, the number of sequences.
"""

import os
import struct
from pathlib import Path
from types import TracebackType

import numpy as np

from data_prep.errors import UserError

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 6: np.float64, 7: np.float32, 8: np.uint16}
_CODES = {np.dtype(dtype): code for code, dtype in _DTYPES.items()}
_UINT16_VOCABULARY = 65500
"""Megatron's own threshold for two-byte ids."""


def token_dtype(vocab_size: int) -> np.dtype:
    """Return the dtype that Megatron picks for a vocabulary."""
    return np.dtype(np.uint16 if vocab_size < _UINT16_VOCABULARY else np.int32)


class ShardWriter:
    """Write one shard, a document at a time, one sequence a document.

    The index appears when the block ends well; a shard without one is no shard.
    """

    def __init__(self, prefix: Path, vocab_size: int) -> None:
        self.prefix = prefix
        self.dtype = token_dtype(vocab_size)
        self.histogram = np.zeros(vocab_size, dtype=np.int64)
        self._lengths: list[int] = []
        self._bin = open(prefix.with_suffix(".bin"), "wb")  # noqa: SIM115 - closed by __exit__

    @property
    def documents(self) -> int:
        """Documents written so far."""
        return len(self._lengths)

    def add_document(self, ids: list[int]) -> None:
        """Append one document's ids; raises UserError for an id that the vocabulary does not hold."""
        # numpy wraps what does not fit its dtype without a word, so look before the cast.
        wide = np.asarray(ids, dtype=np.int64)
        if len(wide) and (wide.min() < 0 or wide.max() >= len(self.histogram)):
            raise UserError(
                f"{self.prefix}: token id {wide.max()} is beyond the tokenizer's vocabulary of {len(self.histogram)}; "
                "the tokenizer's files do not belong together"
            )
        self._bin.write(wide.astype(self.dtype).tobytes())
        self._lengths.append(len(wide))
        self.histogram += np.bincount(wide, minlength=len(self.histogram))

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._bin.flush()
        os.fsync(self._bin.fileno())
        self._bin.close()
        if kind is None:
            self._write_index()

    def _write_index(self) -> None:
        lengths = np.asarray(self._lengths, dtype=np.int32)
        offsets = np.zeros(len(lengths), dtype=np.int64)
        np.cumsum(lengths[:-1].astype(np.int64) * self.dtype.itemsize, out=offsets[1:])
        documents = np.arange(len(lengths) + 1, dtype=np.int64)
        with open(self.prefix.with_suffix(".idx"), "wb") as file:
            file.write(_HEADER.pack(_MAGIC, 1, _CODES[self.dtype], len(lengths), len(documents)))
            for array in (lengths, offsets, documents):
                file.write(array.tobytes())
            file.flush()
            os.fsync(file.fileno())


class Shard:
    """A shard's ids, memory-mapped: `tokens` is one flat array over all documents."""

    def __init__(self, prefix: Path) -> None:
        """Open `prefix`.bin and `prefix`.idx; raises UserError where either is missing or damaged."""
        index, data = prefix.with_suffix(".idx"), prefix.with_suffix(".bin")
        for path in (index, data):
            if not path.is_file():
                raise UserError(f"{path}: no such file; prepare the text again")
        header = index.read_bytes()[: _HEADER.size]
        if len(header) < _HEADER.size or header[:9] != _MAGIC:
            raise UserError(f"{index}: not an MMIDIDX index")
        _, version, code, sequences, documents = _HEADER.unpack(header)
        if version != 1 or code not in _DTYPES:
            raise UserError(f"{index}: version {version} with dtype code {code} is not supported")
        expected = _HEADER.size + 12 * sequences + 8 * documents
        if index.stat().st_size != expected:
            raise UserError(f"{index}: {index.stat().st_size} bytes where {expected} are due; prepare the text again")
        self.prefix = prefix
        dtype = np.dtype(_DTYPES[code])
        self.lengths = np.memmap(index, dtype=np.int32, mode="r", offset=_HEADER.size, shape=(sequences,))
        due = int(self.lengths.sum(dtype=np.int64)) * dtype.itemsize
        if data.stat().st_size != due:
            raise UserError(f"{data}: {data.stat().st_size} bytes where the index wants {due}; prepare the text again")
        self.tokens = np.memmap(data, dtype=dtype, mode="r") if due else np.empty(0, dtype)
