"""JSONL: a record a line, plain or compressed."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from data_prep.settings import CorpusConfig
from data_prep.text.lines import piece_lines
from data_prep.text.pieces import Document, Piece
from data_prep.text.rejects import BadRecords

_JSON_BYTES = 12
"""A character's bytes at most where JSON spells it as two escapes."""
_OTHER_FIELDS = 1 << 20


def read_jsonl(piece: Piece, corpus: CorpusConfig, bad: BadRecords) -> Iterator[Document]:
    """Yield the texts of the lines that begin in the piece."""
    longest = corpus.max_characters * _JSON_BYTES + _OTHER_FIELDS
    behind = f" behind byte {piece.start}" if piece.start else ""
    for number, line in enumerate(piece_lines(Path(piece.path), piece, longest), start=1):
        where = f"line {number}{behind}"
        if line is None:
            bad.add_long(where)
            continue
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        try:
            record = _parsed(line)
        except orjson.JSONDecodeError as error:
            bad.add(where, f"not JSON ({error})")
            continue
        text = record.get(corpus.text_field) if isinstance(record, dict) else None
        del line, record  # a document may be long
        if isinstance(text, str):
            yield f"{piece.path}: {where}", text
        else:
            bad.add(where, f"no text under {corpus.text_field!r}")


def _parsed(line: bytes) -> Any:
    """The line's value; raises orjson.JSONDecodeError where it is none that json.dumps could have written."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        # orjson keeps to the standard, and json.dumps does not: it writes NaN, and halves of surrogate pairs.
        try:
            return json.loads(line.decode())
        except (ValueError, RecursionError):
            pass
        raise
