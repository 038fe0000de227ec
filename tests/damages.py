"""What may lie in the place of a file, how a file may be spoilt, and a disk that is full."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def in_place(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return what removes a file and makes something else of its name."""

    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


IN_PLACE = {
    name: in_place(make)
    for name, make in {
        "a directory": Path.mkdir,
        "a link loop": lambda path: path.symlink_to(path.name),
        "a link to nothing": lambda path: path.symlink_to("nowhere"),
        "a link to a device": lambda path: path.symlink_to("/dev/zero"),
        "a pipe": os.mkfifo,
        "a socket": lambda path: os.mknod(path, 0o140644),
        "nothing": Path.touch,
        "bytes": lambda path: path.write_bytes(bytes(range(256)) * 8),
        "text": lambda path: path.write_text("{[\n" * 9),
    }.items()
}


def flip(path: Path, place: int) -> None:
    """Change a bit of a byte."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Have writing past so many bytes of a file fail as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
