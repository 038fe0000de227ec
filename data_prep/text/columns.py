"""The columns of a table that hold the documents, in whichever of arrow's types."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow
import pyarrow.compute
from pyarrow import types

from data_prep.settings import CorpusConfig
from data_prep.text.document import Document
from data_prep.text.rejects import BadRecords, DamagedError
from data_prep.text.values import NoTextError, as_json, as_text

_TEXT = (
    types.is_string,
    types.is_large_string,
    types.is_string_view,
    types.is_binary,
    types.is_large_binary,
    types.is_binary_view,
    types.is_fixed_size_binary,
    types.is_null,
)
_LISTS = (types.is_list, types.is_large_list, types.is_list_view, types.is_large_list_view, types.is_fixed_size_list)


Place = tuple[str, ...]
"""The name of a column, or of a field in a column of structs behind those of the structs that it lies in."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The column of the text, and the others that are read, by name."""

    text: Place
    others: dict[str, Place]

    @property
    def places(self) -> list[Place]:
        """All of them, each once."""
        return list(dict.fromkeys([self.text, *self.others.values()]))

    def documents(
        self, batch: pyarrow.RecordBatch | pyarrow.Table, path: str, first: int, bad: BadRecords
    ) -> Iterator[Document]:
        """Yield the documents of the rows from number `first` on; those without a text are counted as bad."""
        others = {name: [as_json(value) for value in _column(batch, place).to_pylist()] for name, place in self.others.items()}
        for row, scalar in enumerate(_column(batch, self.text)):
            where = f"row {first + row}"
            try:
                text = as_text(scalar.as_py())
            except UnicodeDecodeError:
                bad.add(where, "not UTF-8")
            except NoTextError as error:
                bad.add(where, str(error))
            else:
                yield Document(text, f"{path}: {where}", {name: values[row] for name, values in others.items()})


def _column(batch: pyarrow.RecordBatch | pyarrow.Table, place: Place) -> pyarrow.Array | pyarrow.ChunkedArray:
    column = batch.column(batch.schema.get_field_index(place[0]))
    for name in place[1:]:
        # A field of a struct that is null is null.
        column = pyarrow.compute.struct_field(column, name)
    return column


def find_columns(schema: pyarrow.Schema, corpus: CorpusConfig) -> Columns:
    """Return the columns that a corpus reads.

    `a.b` is the field b of the column a, where there is none spelled so. Raises DamagedError where there is none of a name
    or more than one, and where that of the text holds none.
    """
    text = _text_column(schema, corpus.text_field)
    return Columns(text, {name: _find(schema, name, "columns, where")[0] for name in corpus.read_columns})


def _text_column(schema: pyarrow.Schema, name: str) -> Place:
    place, kind = _find(schema, name, "text_field")
    if types.is_struct(kind):
        within = ", ".join(f"{name}.{field.name}" for field in kind.fields)
        raise DamagedError(f"column {name!r} holds structs; name one of their fields: {within} (text_field)")
    if not _is_text(kind):
        chat = ", as chats do" if types.is_nested(kind) and "struct" in str(kind) else ""
        raise DamagedError(f"column {name!r} holds {str(kind)[:100]}{chat}, and text or lists of texts are read (text_field)")
    return place


def _find(schema: pyarrow.Schema, name: str, key: str) -> tuple[Place, pyarrow.DataType]:
    """(the place of the column of that name, its type)."""
    fields = list(schema)
    path: list[str] = []
    rest = name
    while (field := _called(rest, fields, key)) is None:
        head, point, rest = rest.partition(".")
        around = _called(head, fields, key) if point else None
        if around is None or not types.is_struct(around.type):
            raise DamagedError(f"no column {name!r}; it has {', '.join(_spelled(schema))} ({key})")
        path.append(head)
        fields = around.type.fields
    return (*path, rest), field.type


def _called(name: str, fields: list[pyarrow.Field], key: str) -> pyarrow.Field | None:
    """The field of that name, None where there is none; raises DamagedError where arrow could not say which is meant."""
    found = [field for field in fields if field.name == name]
    if len(found) > 1:
        raise DamagedError(f"{len(found)} columns are called {name!r}, and one is to be read; rename the others ({key})")
    return found[0] if found else None


def _is_text(kind: pyarrow.DataType) -> bool:
    if types.is_dictionary(kind) or any(is_list(kind) for is_list in _LISTS):
        return _is_text(kind.value_type) and not (types.is_nested(kind) and types.is_nested(kind.value_type))
    return any(is_text(kind) for is_text in _TEXT)


def _spelled(fields: Iterable[pyarrow.Field], before: str = "") -> Iterator[str]:
    """The names by which `text_field` can name each column, and each field in one."""
    for field in fields:
        if types.is_struct(field.type):
            yield from _spelled(field.type.fields, f"{before}{field.name}.")
        else:
            yield before + field.name
