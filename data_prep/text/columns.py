"""The column of a table that holds the documents, in whichever of arrow's types."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow
import pyarrow.compute
from pyarrow import types

from data_prep.text.rejects import DamagedError
from data_prep.text.values import NoTextError, as_text

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


@dataclass(frozen=True, slots=True)
class TextColumn:
    """A column, or a field in a column of structs."""

    path: tuple[str, ...]
    """Its name, behind those of the structs that it lies in."""

    @property
    def top(self) -> str:
        """The name of the table's own column."""
        return self.path[0]

    def texts(self, batch: pyarrow.RecordBatch | pyarrow.Table) -> Iterator[str | NoTextError]:
        """Yield each row's text, or what there is instead."""
        column = batch.column(batch.schema.get_field_index(self.top))
        for name in self.path[1:]:
            # A field of a struct that is null is null.
            column = pyarrow.compute.struct_field(column, name)
        for scalar in column:
            try:
                yield as_text(scalar.as_py())
            except UnicodeDecodeError:
                yield NoTextError("not UTF-8")
            except NoTextError as error:
                yield error


def find_column(schema: pyarrow.Schema, name: str) -> TextColumn:
    """Return the column of that name, or for `a.b` the field b of the column a, where there is none spelled so.

    Raises DamagedError where there is none or more than one, and where it holds no text.
    """
    fields = [schema.field(number) for number in range(len(schema))]
    path: list[str] = []
    rest = name
    while (field := _called(rest, fields)) is None:
        head, point, rest = rest.partition(".")
        around = _called(head, fields) if point else None
        if around is None or not types.is_struct(around.type):
            raise DamagedError(f"no column {name!r}; it has {', '.join(_spelled(schema))} (text_field)")
        path.append(head)
        fields = around.type.fields
    kind = field.type
    if types.is_struct(kind):
        within = ", ".join(f"{name}.{field.name}" for field in kind.fields)
        raise DamagedError(f"column {name!r} holds structs; name one of their fields: {within} (text_field)")
    if not _is_text(kind):
        chat = ", as chats do" if types.is_nested(kind) and "struct" in str(kind) else ""
        raise DamagedError(f"column {name!r} holds {str(kind)[:100]}{chat}, and text or lists of texts are read (text_field)")
    return TextColumn((*path, rest))


def _called(name: str, fields: list[pyarrow.Field]) -> pyarrow.Field | None:
    """The field of that name, None where there is none; raises DamagedError where arrow could not say which is meant."""
    found = [field for field in fields if field.name == name]
    if len(found) > 1:
        raise DamagedError(f"{len(found)} columns are called {name!r}, and one is to be read; rename the others (text_field)")
    return found[0] if found else None


def _is_text(kind: pyarrow.DataType) -> bool:
    if types.is_dictionary(kind) or any(is_list(kind) for is_list in _LISTS):
        return _is_text(kind.value_type) and not (types.is_nested(kind) and types.is_nested(kind.value_type))
    return any(is_text(kind) for is_text in _TEXT)


def _spelled(fields: pyarrow.Schema | pyarrow.StructType, before: str = "") -> Iterator[str]:
    """The names by which `text_field` can name each column, and each field in one."""
    for field in (fields.field(number) for number in range(fields.num_fields if before else len(fields))):
        if types.is_struct(field.type):
            yield from _spelled(field.type, f"{before}{field.name}.")
        else:
            yield before + field.name
