"""Token shards in Megatron's MMIDIDX format: `NAME.bin` holds raw ids, `NAME.idx` says where they begin.

Index, little-endian: 9 bytes of magic, u64 version 1, u8 dtype code, u64 sequences, u64 length of the
document array; then i32 ids per sequence, i64 byte offset per sequence, i64 first sequence of each
document and, last, the number of sequences.
"""

import os
import struct
from array import array
from bisect import bisect_right
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import pyarrow

from data_prep.storage.block_digests import Blocks, readable
from pipeline.common.errors import UserError

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 6: np.float64, 7: np.float32, 8: np.uint16}
_CODES = {np.dtype(dtype): code for code, dtype in _DTYPES.items()}
_UINT16_VOCABULARY = 65500
"""Megatron's own threshold for two-byte ids."""
_MOST_MAPPED = 24_576
"""Files that a process keeps mapped, up to three of a shard: Linux lets it have 65,530 maps."""


def bin_path(prefix: Path) -> Path:
    """Return the path of a shard's ids; `with_suffix` would cut a name with a dot in it."""
    return prefix.with_name(prefix.name + ".bin")


def idx_path(prefix: Path) -> Path:
    """Return the path of a shard's index."""
    return prefix.with_name(prefix.name + ".idx")


def token_dtype(vocab_size: int) -> np.dtype:
    """Return the dtype that Megatron picks for a vocabulary."""
    return np.dtype(np.uint16 if vocab_size < _UINT16_VOCABULARY else np.int32)


class ShardWriter:
    """Write one shard, some documents at a time: 4 bytes of memory a sequence and 8 a document.

    The index appears when the block ends well; a shard without one is no shard. Nothing is synced to disk.
    """

    def __init__(self, bin_path: Path, idx_path: Path, vocab_size: int) -> None:
        self.dtype = token_dtype(vocab_size)
        self.histogram = np.zeros(vocab_size, dtype=np.int64)
        """How often each id was written."""
        self.tokens = 0
        self._bin_path, self._idx_path = bin_path, idx_path
        self._lengths = array("i")
        self._documents = array("q", [0])
        self._bin = open(bin_path, "wb")  # noqa: SIM115 - closed by __exit__

    @property
    def sequences(self) -> int:
        """Sequences written so far."""
        return len(self._lengths)

    @property
    def documents(self) -> int:
        """Documents written so far."""
        return len(self._documents) - 1

    def add_documents(self, ids: np.ndarray, lengths: np.ndarray, sequences: np.ndarray) -> None:
        """Append documents: their ids, how many of these each sequence has, and how many of the sequences each document.

        All are arrays of integers of any dtype. Raises UserError for an id beyond the vocabulary.
        """
        # numpy wraps what does not fit its dtype without a word, so look before the cast.
        if len(ids) and (ids.min() < 0 or ids.max() >= len(self.histogram)):
            bad = ids.min() if ids.min() < 0 else ids.max()
            raise UserError(
                f"{self._bin_path}: token id {bad} is beyond the tokenizer's vocabulary of {len(self.histogram)}; "
                "the tokenizer's files do not belong together"
            )
        self._bin.write(ids.astype(self.dtype).data)
        self._lengths.frombytes(lengths.astype(np.int32).tobytes())
        self._documents.frombytes((np.cumsum(sequences, dtype=np.int64) + self._documents[-1]).tobytes())
        self.tokens += len(ids)
        self.histogram += np.bincount(ids, minlength=len(self.histogram))

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._bin.close()
        if kind is None:
            self._write_index()

    def _write_index(self) -> None:
        lengths = np.asarray(self._lengths, dtype=np.int32)
        offsets = np.zeros(len(lengths), dtype=np.int64)
        np.cumsum(lengths[:-1], dtype=np.int64, out=offsets[1:])
        offsets *= self.dtype.itemsize
        with open(self._idx_path, "wb") as file:
            file.write(_HEADER.pack(_MAGIC, 1, _CODES[self.dtype], len(lengths), len(self._documents)))
            for part in (lengths, offsets, self._documents):
                file.write(part.tobytes())


class Shard:
    """A shard's ids and index, each memory-mapped when first used; opening takes as long for any number of sequences.

    Of the files of a process the last used ones stay mapped; arrays handed out stay valid for as long as somebody has them.
    What lies between the first and the last sequence is not looked at when a shard is opened: an index whose sequences lie in
    another order, or leave gaps that others make up for, is not noticed.
    """

    def __init__(self, prefix: Path, *, blocks: Path | None = None, vocab_size: int | None = None) -> None:
        """Open `prefix`.bin and `prefix`.idx; raises UserError where either is missing, damaged or of a kind not read here.

        What `read` returns is held against `blocks`, the digests of its blocks, and against `vocab_size`, where they are given.
        """
        self.prefix = prefix
        self._vocab_size = vocab_size
        self._index, self._data = idx_path(prefix), bin_path(prefix)
        for path in (self._index, self._data):
            if not path.is_file():
                raise UserError(f"{path}: no such file; a shard is a .bin and an .idx of one name, prepare the text again")
        with open(self._index, "rb") as file:
            self._read_header(file)
            last_length, last_offset = self._read_ends(file)
        due = last_offset + last_length * self.dtype.itemsize
        if (size := self._data.stat().st_size) != due:
            raise UserError(f"{self._data}: {size} bytes where the index wants {due}; prepare the text again")
        self.size = due // self.dtype.itemsize
        """Tokens in all sequences."""
        self.blocks = None if blocks is None else Blocks(self._data, blocks, size)
        """What of the ids was compared with its digests; None where there are none."""

    def _read_header(self, file: BinaryIO) -> None:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size or not header.startswith(_MAGIC):
            raise UserError(f"{self._index}: not an MMIDIDX index")
        _, version, code, self.sequences, starts = _HEADER.unpack(header)
        if version != 1 or code not in _DTYPES:
            raise UserError(f"{self._index}: version {version} with dtype code {code} is not supported; use version 1")
        self.dtype = np.dtype(_DTYPES[code])
        if self.dtype.kind == "f":
            raise UserError(f"{self._index}: holds {self.dtype} values, no token ids; use shards of an integer dtype")
        self.documents = starts - 1
        self.index_size = _HEADER.size + 12 * self.sequences + 8 * starts
        if (size := os.fstat(file.fileno()).st_size) != self.index_size:
            raise UserError(f"{self._index}: {size} bytes where {self.index_size} are due; prepare the text again")

    def _read_ends(self, file: BinaryIO) -> tuple[int, int]:
        """Return length and byte offset of the last sequence; look at the first one's offset and the document array's ends."""

        def integer(position: int, size: int) -> int:
            file.seek(position)
            return int.from_bytes(file.read(size), "little", signed=True)

        offsets = _HEADER.size + 4 * self.sequences
        starts = offsets + 8 * self.sequences
        if self.documents < 0 or integer(starts, 8) != 0 or integer(starts + 8 * self.documents, 8) != self.sequences:
            raise UserError(f"{self._index}: its documents do not end with its {self.sequences} sequences; write it again")
        if self.sequences == 0:
            return 0, 0
        if (first := integer(offsets, 8)) != 0:
            raise UserError(f"{self._index}: its sequences begin at byte {first}; only shards that begin at 0 can be read")
        last_length = integer(offsets - 4, 4)
        last_offset = integer(starts - 8, 8)
        if last_length < 0 or last_offset < 0 or last_offset % self.dtype.itemsize:
            raise UserError(f"{self._index}: its last sequence has {last_length} tokens at byte {last_offset}; write it again")
        return last_length, last_offset

    @property
    def tokens(self) -> np.ndarray:
        """The ids of all sequences, one flat array [size] of the shard's dtype."""
        return np.frombuffer(_mapped(self, self._data), self.dtype) if self.size else np.empty(0, self.dtype)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, int32 [sequences]."""
        return np.frombuffer(_mapped(self, self._index), np.int32, self.sequences, _HEADER.size)

    @property
    def offsets(self) -> np.ndarray:
        """Byte at which each sequence begins, int64 [sequences]."""
        return np.frombuffer(_mapped(self, self._index), np.int64, self.sequences, _HEADER.size + 4 * self.sequences)

    @property
    def document_starts(self) -> np.ndarray:
        """First sequence of each document and, last, the number of sequences, int64 [documents + 1]."""
        return np.frombuffer(_mapped(self, self._index), np.int64, self.documents + 1, _HEADER.size + 12 * self.sequences)

    def read(self, begin: int, end: int) -> np.ndarray:
        """Return tokens [begin, end), int64.

        Each block is compared before its first use. Raises UserError, naming the file, where the tokens are not those that were
        prepared, or are no ids of the vocabulary.
        """
        itemsize = self.dtype.itemsize
        if self.blocks is not None and (left := self.blocks.left(begin * itemsize, end * itemsize)):
            self.blocks.compare(left, np.frombuffer(_mapped(self, self.blocks.digests), np.uint8))
        ids = self.tokens[begin:end].astype(np.int64)
        # Seen without a sign an id below 0 is beyond any vocabulary.
        if self._vocab_size is not None and len(ids) and (unsigned := ids.view(np.uint64)).max() >= self._vocab_size:
            wrong = int(ids[unsigned.argmax()])
            raise UserError(
                f"{self._data}: token id {wrong}, between tokens {begin:,} and {end:,}, is beyond the vocabulary of "
                f"{self._vocab_size} ids; put the file back, or prepare the text again"
            )
        return ids

    def document_at(self, sequence: int) -> int:
        """Return the document that a sequence belongs to."""
        # numpy's own search would copy the whole array, which does not lie aligned in its file.
        return bisect_right(self.document_starts, sequence) - 1

    def boundaries(self, begin: int, end: int) -> np.ndarray:
        """Return the tokens after `begin` and before `end` at which a document begins, int64, ascending."""
        itemsize, offsets = self.dtype.itemsize, self.offsets
        first, last = (self.document_at(bisect_right(offsets, token * itemsize) - 1) for token in (begin, end - 1))
        # Documents without a token begin where the next one does.
        return np.unique(offsets[self.document_starts[first + 1 : last + 1]]) // itemsize


@lru_cache(_MOST_MAPPED)
def _mapped(shard: Shard, path: Path) -> pyarrow.Buffer:
    """Map a file of a shard for as long as somebody has an array of it; raises UserError where it cannot be."""
    # Python's own mmap would hold a file descriptor all the while.
    with readable(path), pyarrow.memory_map(str(path)) as file:
        return file.read_buffer()
