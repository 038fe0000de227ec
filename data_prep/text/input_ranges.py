"""What is read at a time."""

from pydantic import BaseModel


class InputRange(BaseModel):
    """A run of one input: bytes of .txt and .jsonl, row groups of parquet, rows of a dataset; else the whole file."""

    path: str
    start: int
    stop: int
    size: int
    """About how many bytes of text there are."""
    fingerprint: str | None = None
    """A dataset's, by which it is known again; files are hashed as a whole."""


def byte_ranges(path: str, size: int, step: int) -> list[InputRange]:
    """Return ranges of `step` bytes that cover a file of `size` bytes."""
    return [
        InputRange(path=path, start=begin, stop=min(begin + step, size), size=min(step, size - begin))
        for begin in range(0, size, step)
    ]
