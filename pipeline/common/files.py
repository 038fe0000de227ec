"""Files that are either whole or absent: atomic writes, locks, hashes."""

import errno
import hashlib
import io
import json
import os
import shutil
import socket
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from typing_extensions import Buffer

from pipeline.common.errors import UserError
from pipeline.common.progress import Advance


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text` so that a reader, at any instant, sees the old file or the new one."""
    temporary = path.with_name(path.name + ".partial")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except Exception:
        temporary.unlink(missing_ok=True)
        raise
    os.replace(temporary, path)
    fsync_directory(path.parent)


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a regular file; raises OSError for anything else, without waiting for who writes to a pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EISDIR if path.is_dir() else errno.EINVAL, "not a regular file", str(path))
    with open(descriptor, "rb") as file:
        return file.read()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def fsync_directory(path: Path) -> None:
    """Make renames inside `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_WRITER = ".writer"
"""The file in a temporary folder that its writer holds locked, by which the folder is known as one of these."""


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the block ends well, and is removed otherwise.

    What a killed process left in it is cleared. Raises UserError where another process is making `path`, or
    where something else has the temporary folder's name.
    """
    path = path.resolve()
    temporary = path.with_name(path.name + ".partial")
    if any(temporary.glob("*")) and not (temporary / _WRITER).is_file():
        raise UserError(
            f"{temporary}: this folder was not made here and has the name of a temporary one; move it, or name another "
            f"directory than {path}"
        )
    with locked(temporary / _WRITER, wait=False):
        _clear(temporary)
        try:
            yield temporary
            publish_directory(temporary, path)
        except BaseException:
            _clear(temporary)
            (temporary / _WRITER).unlink()
            temporary.rmdir()
            raise
        (path / _WRITER).unlink()


def _clear(temporary: Path) -> None:
    """Remove all but the writer's file, without which a folder that is half cleared would be nobody's."""
    for entry in [entry for entry in temporary.iterdir() if entry.name != _WRITER]:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def publish_directory(temporary: Path, path: Path) -> None:
    """Rename the folder `temporary` to `path`, its files on disk, in place of what was there."""
    for file in (entry for entry in temporary.rglob("*") if entry.is_file()):
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())
    fsync_directory(temporary)
    shutil.rmtree(path, ignore_errors=True)
    os.replace(temporary, path)
    fsync_directory(path.parent)


_REMOVAL_SECONDS = 0.1


class HeldError(UserError):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock file `path`; the kernel releases it however this process ends. The block may remove the file.

    Raises HeldError where another process holds it and `wait` is false, UserError where there are no locks.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise UserError(f"{path}: a lock file must be a regular file; remove what is there")
    # A soft lock, which filelock would fall back to, outlives a process that was killed. And a holder may just remove its file.
    lock = FileLock(path, timeout=-1 if wait else _REMOVAL_SECONDS, poll_interval=0.01, fallback_to_soft=False)
    try:
        held = lock.acquire()
    except (Timeout, FileNotFoundError):
        # The directory is gone where its writer has just failed.
        holder = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
        raise HeldError(
            f"{path.parent}: process {holder or 'unknown'} is writing to this directory; wait for it to end, stop it, or name "
            "another directory"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        raise UserError(f"{path}: this file system has no locks ({error.strerror}); name a directory on another one") from None
    with held:
        path.write_text(f"{os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield


class WatchedFile(io.FileIO):
    """A file open for reading that reports how many bytes are read."""

    def __init__(self, path: Path, advance: Advance) -> None:
        super().__init__(path)
        self._advance = advance

    def readinto(self, buffer: Buffer) -> int:
        """Fill what can be filled; return how many bytes."""
        count = super().readinto(buffer)
        self._advance(count)
        return count


MISSING = "missing"
"""What is wrong with a file that is not there."""


def irregular(path: Path) -> str | None:
    """Return why `path` cannot be read as a file, or None where it can be tried; a pipe would be waited on for ever."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "a link to a file that is not there" if path.is_symlink() else MISSING
    except OSError as error:
        return error.strerror
    return None if stat.S_ISREG(mode) else "a directory and not a file" if stat.S_ISDIR(mode) else "not a regular file"


def regular_files(paths: Iterable[Path]) -> list[Path]:
    """Return those of the paths that are files; raises UserError for one that is there and cannot be read as one."""
    found = {path: fault for path in paths if (fault := irregular(path)) != MISSING}
    for path, fault in found.items():
        if fault is not None:
            raise UserError(f"{path}: {fault}; copy it again, or remove it")
    return list(found)


def file_digest(path: Path, advance: Advance = lambda _: None) -> str:
    """BLAKE2b-128 of a file's bytes, in hex; `advance` is called with the number of bytes that are read."""
    with WatchedFile(path, advance) as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def text_digest(text: str) -> str:
    """BLAKE2b-128 of a text's UTF-8 bytes, in hex."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def json_digest(content: dict[str, Any], key: str = "digest") -> str:
    """Return the digest of what a JSON object says, that which stands under `key` left out."""
    return text_digest(json.dumps({name: value for name, value in content.items() if name != key}, sort_keys=True))
