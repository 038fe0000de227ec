"""Files as corpora name them, written and read by tests."""

import bz2
import gzip
import io
import json
import lzma
import random
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import zstandard

from data_prep.settings import CorpusConfig
from data_prep.text.input_ranges import InputRange
from data_prep.text.readers import ranges_of_file, read_range
from data_prep.text.rejects import Rejects

TEXTS = ["first document", "second\nwith two lines", "dritter, mit Umlauten äöü", "", "fifth 😀"]
LINES = "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in TEXTS).encode()


def config(**options: object) -> CorpusConfig:
    return CorpusConfig(**({"files": ["-"]} | options))


def read_counted(path: Path, range_bytes: int = 1 << 20, **options: object) -> tuple[list[str], Rejects]:
    """A file's texts, and what of it was not taken."""
    corpus, rejects = config(**options), Rejects()
    ranges = ranges_of_file(path, corpus, range_bytes)
    return [text for input_range in ranges for text in texts_of(input_range, corpus, rejects)], rejects


def read(path: Path, range_bytes: int = 1 << 20, **options: object) -> list[str]:
    return read_counted(path, range_bytes, **options)[0]


def texts_of(input_range: InputRange, corpus: CorpusConfig | None = None, rejects: Rejects | None = None) -> list[str]:
    return [document.text for document in read_range(input_range, corpus or config(), rejects or Rejects())]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def parquet(columns: dict[str, object]) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


COMPRESSED = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def random_lines(draw: random.Random) -> bytes:
    """Lines of text, empty ones, and ones of white space, ended in any way, the last perhaps not at all."""
    lines = draw.choices([b"a", b"bc d", "é😀".encode(), b"", b" ", b" \t", b"\x0b", b"long " * 30], k=draw.randrange(1, 25))
    content = b"".join(line + draw.choice([b"\n", b"\n", b"\r\n"]) for line in lines)
    return content.rstrip(b"\r\n") + b"x" if draw.random() < 0.3 else content


def paragraphs(content: bytes) -> list[str]:
    """What a reader of the whole file finds: an independent account of the same rule."""
    return [found.decode() for found in re.findall(rb"(?:^[^\n]*[^\s][^\n]*(?:\n|\Z))+", content, re.MULTILINE)]


def looking_back(window_log: int) -> bytes:
    """LINES, compressed as by `zstd --long`."""
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=window_log, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(LINES) + compressor.flush()
