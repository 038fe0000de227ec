"""The documents of a slice, into parts."""

import hashlib
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from data_prep.jobs.job import Outputs
from data_prep.text.document import Document
from data_prep.text.document_parts import DocumentPartWriter

_SHOWN = 100
"""Languages and domains whose documents are counted, of a slice: the most frequent ones."""
_HELD = 100_000
"""Those that are held until its end; where there are more, the half that is less frequent goes."""

_LOWER = bytes(range(256)).lower()
_ASCII = bytes(range(128))
_SPACE = bytes(code for code in _ASCII if chr(code).isspace())
_WIDE_SPACE = frozenset(chr(code) for code in range(128, 0x3001) if chr(code).isspace())


class SliceWriter:
    """Write the documents that a slice keeps into parts of up to `part_bytes`, however large it is, and count them."""

    def __init__(self, outputs: Outputs, name: str, *, hashed: bool, heldout_below: float, part_bytes: int) -> None:
        self._outputs = outputs
        self._name = name
        self._hashed = hashed
        self._heldout_below = heldout_below
        self._part_bytes = part_bytes
        self._writer: DocumentPartWriter | None = None
        self._parts: list[dict[str, Any]] = []
        self._lengths: Counter[int] = Counter()
        self._languages: Counter[str] = Counter()
        self._domains: Counter[str] = Counter()
        self._bytes = 0

    def add(self, document: Document) -> None:
        """Append a document."""
        digest = text_hash(document.text)
        size = utf8_bytes(document.text)
        self._bytes += size
        self._lengths[len(document.text).bit_length()] += 1
        self._count(document.columns)
        if self._writer is None:
            self._writer = DocumentPartWriter(self._outputs, f"{self._name}-{len(self._parts):03d}", hashed=self._hashed)
        self._writer.add(document, size, digest, _draw(digest) < self._heldout_below)
        if self._writer.bytes >= self._part_bytes:
            self._finish()

    def _count(self, columns: dict[str, Any]) -> None:
        if isinstance(language := columns.get("language"), str):
            self._languages = _counted(self._languages, language)
        for name, value in columns.items():
            if name.rpartition(".")[2] == "url" and isinstance(value, str):
                self._domains = _counted(self._domains, _domain(value))

    def _finish(self) -> None:
        if self._writer is not None:
            self._parts.append(self._writer.close())
            self._writer = None

    def close(self) -> dict[str, Any]:
        """Finish the files; return the parts, and what was written."""
        self._finish()
        return {
            "documents_out": sum(part["documents"] for part in self._parts),
            "bytes_out": self._bytes,
            "parts": self._parts,
            "lengths": {str(bits): count for bits, count in sorted(self._lengths.items())},
            "languages": dict(self._languages.most_common(_SHOWN)),
            "domains": dict(self._domains.most_common(_SHOWN)),
        }


def _counted(counts: Counter[str], name: str) -> Counter[str]:
    counts[name] += 1
    return counts if len(counts) <= _HELD else Counter(dict(counts.most_common(_HELD // 2)))


def _domain(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _draw(digest: bytes) -> float:
    """A number from [0, 1), the same for equal texts wherever they stand."""
    draw = hashlib.blake2b(digest, digest_size=8, person=b"held-out").digest()
    return (int.from_bytes(draw, "little") >> 11) * 2.0**-53


def text_hash(text: str) -> bytes:
    """Return the 128-bit hash by which texts are equal that differ in case and white space alone.

    It is of `text.lower()` without white space, in UTF-8.
    """
    content = text.encode()
    if not text.isascii():
        # Bytes are changed much faster than characters; they will not do where one that is not ASCII has to change or to go.
        wide = content.translate(None, _ASCII).decode()
        spaces = _WIDE_SPACE.intersection(wide)
        if spaces or wide.lower() != wide:
            text = text.lower()  # before spaces go: a sigma is another letter at the end of a word
            for space in spaces:
                text = text.replace(space, "")
            content = text.encode()
    return hashlib.blake2b(content.translate(_LOWER, _SPACE), digest_size=16).digest()


def utf8_bytes(text: str) -> int:
    """Return how many bytes a text is in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
