"""JSON: a record a line, plain or compressed, or a file that is one array of records, or one record."""

import codecs
import json
from collections.abc import Iterator
from typing import Any

import orjson

from data_prep.settings import CorpusConfig
from data_prep.text.document import Document
from data_prep.text.input_ranges import InputRange
from data_prep.text.lines import opened, range_lines, read_at_most, read_line
from data_prep.text.rejects import BadRecords, DamagedError
from data_prep.text.values import NoTextError, NotJsonError, as_json, as_text, field_of
from pipeline.common.progress import Advance

_ABSENT = object()
_JSON_BYTES = 12
"""A character's bytes at most where JSON spells it as two escapes."""
_OTHER_FIELDS = 1 << 20
_LARGEST_WHOLE = 128 << 20
"""Bytes of a file that is one array or object: parsed, it takes several times as many."""


def read_jsonl(input_range: InputRange, corpus: CorpusConfig, bad: BadRecords, advance: Advance) -> Iterator[Document]:
    """Yield the texts of the lines that begin in the range."""
    behind = f" behind byte {input_range.start}" if input_range.start else ""
    names = corpus.read_columns
    for number, line in enumerate(range_lines(input_range, _longest(corpus), advance), start=1):
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
        del line  # a document may be long
        yield from _document(record, input_range, where, corpus.text_field, names, bad)


def is_whole(path: str, corpus: CorpusConfig) -> bool:
    """Return whether a file is one array or one object over several lines, by its first line, rather than a record a line."""
    with opened(path, lambda _: None, ahead=False) as file:
        line, _ = read_line(file, _longest(corpus))
        while line is not None and line and not line.strip():
            line, _ = read_line(file, _longest(corpus))
    line = (line or b"").removeprefix(codecs.BOM_UTF8).strip()
    if line.startswith(b"["):
        return True
    # A first line that is no record because it is damaged ends otherwise.
    return line == b"{" or (line.startswith(b"{") and line.endswith((b",", b"[", b"{", b":")) and not _parses(line))


def read_whole(input_range: InputRange, corpus: CorpusConfig, bad: BadRecords, advance: Advance) -> Iterator[Document]:
    """Yield the texts of a file that `is_whole`; raises DamagedError where it is too large to be parsed at once."""
    with opened(input_range.path, advance) as file:
        content = read_at_most(file, _LARGEST_WHOLE).removeprefix(codecs.BOM_UTF8)
    if len(content) > _LARGEST_WHOLE:
        values = ".[]" if content.lstrip().startswith(b"[") else "."
        raise DamagedError(
            f"is one JSON value of more than {_LARGEST_WHOLE >> 20} MiB, which cannot be read a record at a time; write a "
            f"record a line, for instance by: jq -c '{values}' FILE.json > FILE.jsonl"
        )
    try:
        value = _parsed(content)
    except orjson.JSONDecodeError as error:
        raise DamagedError(f"neither a JSON record a line nor one JSON array or object ({error})") from None
    records = value if isinstance(value, list) else [value]
    names = corpus.read_columns
    del content, value
    for number, record in enumerate(records, start=1):
        yield from _document(record, input_range, f"record {number}", corpus.text_field, names, bad)


def _longest(corpus: CorpusConfig) -> int:
    return corpus.max_characters * _JSON_BYTES + _OTHER_FIELDS


def _document(
    record: Any, input_range: InputRange, where: str, text_field: str, names: list[str], bad: BadRecords
) -> Iterator[Document]:
    """The record's text and named columns, where it has a text; else it is counted as bad."""
    text = field_of(record, text_field)
    # One that no record has is missed at the end: it may be misspelled.
    found = {name: value for name in names if (value := field_of(record, name, _ABSENT)) is not _ABSENT}
    del record
    try:
        yield Document(as_text(text), f"{input_range.path}: {where}", as_json(found))
    except NotJsonError as error:
        bad.add(where, f"{error} in `columns` or `where`")
    except NoTextError as error:
        what = str(error).removeprefix("no text")
        bad.add(where, f"no text under {text_field!r}{what}")


def _parses(line: bytes) -> bool:
    try:
        _parsed(line)
    except orjson.JSONDecodeError:
        return False
    return True


def _parsed(text: bytes | bytearray) -> Any:
    """A text's value; raises orjson.JSONDecodeError where it is none that json.dumps could have written."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        # orjson keeps to the standard, and json.dumps does not: it writes NaN, and halves of surrogate pairs.
        try:
            return json.loads(text.decode())
        except (ValueError, RecursionError):
            pass
        raise
