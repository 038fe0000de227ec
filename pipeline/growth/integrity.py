"""What a checkpoint's files should be: their names, sizes and digests, in a file beside them that is written last.

They tell a checkpoint that was damaged, cut short or mixed with another from a whole one. They are no signature: who can
write the files can write their digests too. What keeps a hostile file from doing harm is that nothing in it is run
(`zero_checkpoint`); the digests keep a file that is not the run's own from being taken for it.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.common.files import file_digest, irregular, text_digest, write_json
from pipeline.common.progress import Meter

FILES = "files.json"
"""The file that says what the others should be."""


@dataclass(frozen=True, slots=True)
class Digest:
    """What a file should be."""

    size: int
    """Bytes."""
    blake2b: str
    """BLAKE2b-128 of them, in hex (RFC 7693)."""


class HashedFile:
    """A new file whose digest is known when it is closed, without reading it again.

    A failed write is kept until `close`: raised in the middle, it would have to pass through torch's writer, which does
    not say what failed and may not survive it.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "wb")  # noqa: SIM115 - `close` closes it
        self._hash = hashlib.blake2b(digest_size=16)
        self._size = 0
        self._failure: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Take more bytes; return their number."""
        size = memoryview(data).nbytes
        if self._failure is None:
            try:
                self._file.write(data)
            except OSError as error:
                self._failure = error
            self._hash.update(data)
            self._size += size
        return size

    def flush(self) -> None:
        """Do nothing yet: `close` does."""

    def close(self) -> Digest:
        """Return the digest of what is on disk; raises the OSError of the first write that failed."""
        try:
            if self._failure is None:
                self._file.flush()
                # By the rank that wrote it: another machine has nothing of it to flush.
                os.fsync(self._file.fileno())
        except OSError as error:
            self._failure = error
        try:
            self._file.close()
        except OSError as error:
            self._failure = self._failure or error
        if self._failure is not None:
            raise self._failure
        return Digest(self._size, self._hash.hexdigest())


def seal(directory: Path, known: Mapping[str, Digest] | None = None) -> None:
    """Write what each file in `directory` is: as `known`, by name, says, or as it is now found."""
    known = known or {}
    digests = {name: known.get(name) or _found(directory / name) for name in sorted({*known, *_names(directory)})}
    files = {name: asdict(digest) for name, digest in digests.items()}
    write_json(directory / FILES, {"files": files, "digest": _digest_of(files)})


def sealed(directory: Path) -> dict[str, Digest]:
    """Return what `seal` wrote of a directory that is whole."""
    content = json.loads((directory / FILES).read_text(encoding="utf-8"))
    return {name: Digest(**digest) for name, digest in content["files"].items()}


def damage(directory: Path, part: int = 0, parts: int = 1) -> str | None:
    """Return which file is not as it was written and in what way, or None where nothing is amiss.

    The bytes of one of `parts` equal parts of the files are read, so that as many processes share the work; names and
    sizes are looked at in full.
    """
    path = directory / FILES
    if (fault := irregular(path)) is not None:
        return f"{path}: {fault}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        digests = {name: Digest(**digest) for name, digest in content["files"].items()}
        if content["digest"] != _digest_of(content["files"]):
            return f"{path}: its bytes are not those that were written"
    except OSError as error:
        return f"{path}: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{path}: not the list of files that was written ({type(error).__name__})"
    for name in _names(directory):
        if name not in digests and name.endswith(".pt"):
            return f"{directory / name}: not one of the files that the checkpoint was written with"
    return difference(directory, digests, part, parts)


def digests_of(directory: Path, leave_out: Sequence[str] = ()) -> dict[str, Digest]:
    """Return what each file in `directory` is now, but for some names."""
    return {name: _found(directory / name) for name in sorted(_names(directory)) if name not in leave_out}


def difference(directory: Path, digests: Mapping[str, Digest], part: int = 0, parts: int = 1) -> str | None:
    """Return which of some files in `directory` is not what it should be and in what way, or None; shared as `damage` is."""
    for name, digest in digests.items():
        file = directory / name
        if (fault := irregular(file)) is not None:
            return f"{file}: {fault}"
        if file.stat().st_size != digest.size:
            return f"{file}: {file.stat().st_size} bytes where {digest.size} were written"
    mine = list(digests)[part::parts]
    with Meter(f"{directory}: comparing the files with their digests", sum(digests[name].size for name in mine)) as meter:
        for name in mine:
            try:
                if file_digest(directory / name, meter.advance) != digests[name].blake2b:
                    return f"{directory / name}: its bytes are not those that were written"
            except OSError as error:
                return f"{directory / name}: {error.strerror}"
    return None


def _names(directory: Path) -> list[str]:
    files = [path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()]
    return [name for name in files if name != FILES]


def _found(path: Path) -> Digest:
    return Digest(path.stat().st_size, file_digest(path))


def _digest_of(files: Mapping[str, object]) -> str:
    return text_digest(json.dumps(files, sort_keys=True))
