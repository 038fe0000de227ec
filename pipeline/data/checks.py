"""What a run reads of a prepared folder, held against the digests of its preparation.

Three looks, each at what the ones before left: at the start every small file and, of shards, as much as there is time for;
before its first use every block of a shard (`Shard.read`); and in the background all the rest. A file that was found whole is
known again by its inode, size and time.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.jobs.workers import share
from data_prep.manifest import MANIFEST, SHARDS, TOKENIZER, TRAIN, UNIGRAMS, CorpusEntry, PreparedData
from data_prep.shards import bin_path, idx_path
from data_prep.storage.block_digests import Blocks, chunks, readable
from pipeline.common import keyed
from pipeline.common.errors import UserError

COMPARED_AT_START = 256 << 20
"""Bytes of shards that a process compares whole before the first step: a third of a second."""
_DRAWN = 4
"""Blocks of a shard that are compared at the start beside its first and its last one, where it is not compared whole."""
_PUT_BACK = "put the file back, or prepare the text again"


@dataclass(frozen=True, slots=True)
class Found:
    """What stands for a file that was found whole."""

    path: str
    digest: str
    inode: int
    size: int
    modified: int
    """Nanoseconds since 1970."""


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """A file of prepared data and what it should be."""

    path: Path
    digest: str
    """BLAKE2b-128 of its bytes."""
    size: int
    """Bytes of a shard's files; 0 of others, which are small."""
    is_shard: bool
    """Whether it holds a shard's ids, of which a run reads some now and some then."""
    blocks: Blocks | None = None
    """The digests of a shard's blocks, where there are any: what is read of it is compared before it is used."""

    @property
    def guarded(self) -> bool:
        """Whether damage of the file is found before what is damaged is used."""
        return not self.is_shard or self.blocks is not None

    def found(self) -> Found:
        """Return what stands for the file as it is now; raises UserError where there is none."""
        with readable(self.path):
            status = self.path.stat()
            if not stat.S_ISREG(status.st_mode):
                # To read from a pipe would be to wait for ever.
                raise OSError(errno.EINVAL, "not a regular file")
        return Found(os.path.abspath(self.path), self.digest, status.st_ino, status.st_size, status.st_mtime_ns)

    def compare(self, after_piece: Callable[[int], None] = lambda size: None) -> None:
        """Compare the whole file; raises UserError naming it. `after_piece` is called with the size of what was just read."""
        digest, begin = hashlib.blake2b(digest_size=16), 0
        blocks = None if self.blocks is None else (self.blocks, self.blocks.read_digests())
        with readable(self.path), open(self.path, "rb") as file:
            for chunk in chunks(file):
                if blocks is None:
                    digest.update(chunk)
                else:
                    blocks[0].compare_chunk(begin, chunk, blocks[1])
                begin += len(chunk)
                after_piece(len(chunk))
        if begin != self.size if blocks is not None else digest.hexdigest() != self.digest:
            raise UserError(f"{self.path}: its bytes are not those that were prepared; {_PUT_BACK}")

    def compare_some(self, key: tuple[object, ...]) -> None:
        """Compare a shard's first and last block, and a few that `key` draws; raises UserError naming it."""
        if self.blocks is None:
            return
        drawn = keyed.below(("compared", *key, self.path.name), 0, _DRAWN, self.blocks.count).tolist()
        self.blocks.compare(sorted({0, *drawn, self.blocks.count - 1}), self.blocks.read_digests())


class DataChecks:
    """The files of prepared data that a run reads, and this process's share of the looks at them."""

    def __init__(self, data: PreparedData, corpora: Collection[str], part: int = 0, parts: int = 1) -> None:
        """`corpora` are those that are read; of `parts` processes each looks at its `part` of their files.

        Raises UserError for a shard that is missing, or another than was prepared as far as sizes tell.
        """
        files = list(_files(data, [corpus for corpus in data.corpora if corpus.name in corpora]))
        self._mine = share(files, part, parts)
        self.left: list[CheckedFile] = []
        """What is to be compared in the background."""
        self.whole: list[Found] = []
        """What was found whole so far, or was known to be."""
        self.remarks: list[str] = []
        """What cannot be compared."""
        if data.manifest.digest is None:
            self.remarks.append(
                f"warning: {data.directory / MANIFEST} was written by an earlier version, without a digest of its own: "
                "weights and digests are taken as they stand there"
            )
        if not all(file.guarded for file in files):
            self.remarks.append(
                f"warning: {data.directory} was prepared by an earlier version: large shards are compared in the background, "
                "and steps may read a damaged one before it is found; prepare the text again to have it found before"
            )

    def at_start(self, known: Collection[Found], key: tuple[object, ...]) -> None:
        """Compare small files and up to COMPARED_AT_START bytes of shards whole, of the others a few blocks that `key` draws.

        What is `known` is passed over. Raises UserError naming the first file that is not as it was prepared.
        """
        budget = COMPARED_AT_START
        for file in sorted(self._mine, key=lambda file: (file.is_shard, file.size)):
            found = file.found()
            if found not in known:
                if file.is_shard and file.size > budget:
                    file.compare_some(key)
                    self.left.append(file)
                    continue
                file.compare()
                budget -= file.size if file.is_shard else 0
            self.whole.append(found)


def _files(data: PreparedData, corpora: list[CorpusEntry]) -> Iterator[CheckedFile]:
    digests = data.manifest.files

    def described(name: str, size: int = 0, *, is_shard: bool = False, blocks: Blocks | None = None) -> CheckedFile:
        # Nothing is asked of the file system: most files are another process's to look at.
        if name not in digests:
            raise UserError(
                f"{data.directory / MANIFEST}: has no digest of {name}; put the manifest back, or prepare the text again"
            )
        return CheckedFile(data.directory / name, digests[name], size, is_shard, blocks)

    named = {
        str(bin_path(Path(entry.prefix)))
        for corpus in data.corpora
        for split in corpus.splits.values()
        for entry in split.shards
    }
    for name in digests:
        if name.endswith(".bin") and name not in named:
            raise UserError(
                f"{data.directory / MANIFEST}: has a digest of {name} and no corpus with that shard; put the manifest "
                "back, or prepare the text again"
            )
        if name.startswith(f"{TOKENIZER}/"):
            yield described(name)
    for corpus in corpora:
        if corpus.splits[TRAIN].tokens:
            yield described(f"{SHARDS}/{corpus.name}/{UNIGRAMS}")
            # Its length is the vocabulary's, which what is read is held against.
            data.unigrams(corpus.name)
        for split, entries in corpus.splits.items():
            for entry, shard in zip(entries.shards, data.open(corpus, split), strict=True):
                prefix, size = Path(entry.prefix), shard.size * shard.dtype.itemsize
                yield described(str(idx_path(prefix)), shard.index_size)
                if entry.blocks is not None and shard.blocks is not None:
                    yield described(entry.blocks, shard.blocks.digests_size)
                yield described(str(bin_path(prefix)), size, is_shard=True, blocks=shard.blocks)
