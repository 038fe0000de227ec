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
