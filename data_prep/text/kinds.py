"""What a file holds, by its name and its first bytes."""

import re
from dataclasses import dataclass
from typing import Literal

from data_prep.storage.stores import Source, raw_file
from data_prep.text.rejects import DamagedError
from pipeline.common.errors import UserError

Format = Literal["txt", "jsonl", "json", "parquet"]

_FORMATS: dict[str, Format] = {".txt": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet"}
_COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz")
KNOWN = "{} (all but .parquet also compressed: {})".format(", ".join(_FORMATS), ", ".join(_COMPRESSIONS))
"""The endings of names that are read, in words."""

_BINARY = {
    re.compile(rb"\x1f\x8b\x08"): ("gzip", ".gz"),
    re.compile(rb"\x28\xb5\x2f\xfd"): ("zstd", ".zst"),
    re.compile(rb"BZh[1-9]1AY&SY"): ("bzip2", ".bz2"),
    re.compile(rb"\xfd7zXZ\x00"): ("xz", ".xz"),
    re.compile(rb"PAR1\x15"): ("parquet", ".parquet"),
}
"""What files begin with whose names should end so."""
_LONGEST = 16


@dataclass(frozen=True, slots=True)
class Kind:
    """How a file is read."""

    format: Format
    """`json` is JSON lines, as many data sets publish them, or else a single array or object."""
    compression: str | None
    """The ending that names it."""


def find_kind(path: Source) -> Kind | None:
    """Return what a file's name says that it holds; None where that is nothing that is read."""
    endings = [ending.lower() for ending in path.suffixes]
    compression = endings.pop() if endings and endings[-1] in _COMPRESSIONS else None
    format = _FORMATS.get(endings[-1]) if endings else None
    if format is None or (format == "parquet" and compression is not None):
        return None
    return Kind(format, compression)


def kind_of(path: Source) -> Kind:
    """Return what a file's name says that it holds; raises UserError where that is nothing that is read."""
    kind = find_kind(path)
    if kind is None:
        raise UserError(f"{path}: unknown type of text file; known are {KNOWN}")
    return kind


def check_content(path: Source, kind: Kind) -> None:
    """Raise DamagedError where a file that should be plain text is compressed, or is parquet, by its first bytes."""
    if kind.compression is not None or kind.format == "parquet":
        return
    with raw_file(path, lambda _: None) as file:
        first = file.read(_LONGEST)
    for pattern, (name, ending) in _BINARY.items():
        if pattern.match(first):
            raise DamagedError(f"is {name} by its first bytes; give it a name that ends in {ending}")
