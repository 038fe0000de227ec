"""What the file of a fastText model holds, read before fastText reads it, which takes a damaged file or ends the process."""

import mmap
import struct
from pathlib import Path

from pipeline.common.errors import UserError

_MAGIC = 793712314
_SUPERVISED = 3
_HEADER = struct.Struct("<2i12id3i2q")
"""Magic number and version; 12 settings and a rate; sizes of the dictionary: entries, words, labels; tokens, pruned n-grams."""
_MODEL, _ENTRIES, _PRUNED = 9, 15, 19
"""Places in it: what was trained, how many entries and pruned n-grams there are."""
_COUNT_AND_KIND = 9
_LABEL = 1
_PREFIX = "__label__"
_CENTROIDS = 256 * 4


def read_labels(path: Path) -> list[str]:
    """Return the labels, without `__label__`, of a classifier that fastText trained (.bin or .ftz).

    Raises UserError where there is no such file, it is no classifier, or it is not as long as its own sizes say.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Reader(content).labels()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; name the file of a fastText classifier") from None
    except (struct.error, ValueError) as error:
        reason = error if isinstance(error, _NoClassifierError) else "it is empty or breaks off"
        raise UserError(f"{path}: no fastText classifier: {reason}; copy it again, or name another") from None


class _NoClassifierError(ValueError):
    pass


class _Reader:
    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._place = 0

    def labels(self) -> list[str]:
        header = self._take(_HEADER.format)
        if header[0] != _MAGIC:
            raise _NoClassifierError("it does not begin as such a file does")
        if header[_MODEL] != _SUPERVISED:
            raise _NoClassifierError("it holds word vectors")
        labels: list[str] = []
        for _ in range(header[_ENTRIES]):
            end = self._content.find(b"\0", self._place)
            if not self._place <= end < len(self._content) - _COUNT_AND_KIND:
                raise _NoClassifierError("it breaks off")
            if self._content[end + _COUNT_AND_KIND] == _LABEL:
                labels.append(self._content[self._place : end].decode("utf-8", "replace").removeprefix(_PREFIX))
            self._place = end + 1 + _COUNT_AND_KIND
        self._place += 8 * max(header[_PRUNED], 0)
        quantized = self._skip_matrix(quantizable=True)
        self._skip_matrix(quantizable=quantized)
        if self._place != len(self._content):
            raise _NoClassifierError(f"it should have {self._place:,} bytes and has {len(self._content):,}")
        return labels

    def _take(self, form: str) -> tuple:
        values = struct.unpack_from(form, self._content, self._place)
        self._place += struct.calcsize(form)
        return values

    def _skip_matrix(self, quantizable: bool) -> bool:
        """Skip the sign of a quantized matrix and the matrix; return whether it is quantized."""
        (sign,) = self._take("<?")
        if not (sign and quantizable):
            rows, columns = self._take("<2q")
            self._place += 4 * rows * columns
            return False
        normed, rows, _, codes = self._take("<?2qi")
        self._place += codes
        self._skip_quantizer()
        if normed:
            self._place += rows
            self._skip_quantizer()
        return True

    def _skip_quantizer(self) -> None:
        dimensions, *_ = self._take("<4i")
        self._place += _CENTROIDS * dimensions
