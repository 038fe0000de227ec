"""Stage `clean`: slices of the inputs to parts of cleaned documents."""

import hashlib
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.job import Facts, Item, Outputs
from data_prep.plan import Plan, Slice
from data_prep.progress import BYTES, Advance
from data_prep.settings import CorpusConfig
from data_prep.text.clean import Cleaner
from data_prep.text.parts import Part, PartWriter
from data_prep.text.readers import read_piece
from data_prep.text.rejects import BAD_FILE, CONTAMINATED, Rejects

if TYPE_CHECKING:
    from data_prep.decontamination.passages import Passages
    from data_prep.decontamination.removal import Removal


class Clean:
    """Read, clean and hash; a slice's parts are as long as `part_mib` says, however large the slice is."""

    name = "clean"
    unit = BYTES

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._slices = {item.name: item for item in plan.slices}

    def items(self) -> list[Item]:
        """The plan's slices."""
        return [Item(piece.name, piece.size) for piece in self._plan.slices]

    def work(self, item: Item, outputs: Outputs, advance: Advance) -> dict[str, Any]:
        """Write a slice's parts."""
        part_slice = self._slices[item.name]
        corpus = self._plan.corpus(part_slice.corpus)
        cleaner, rejects, removal = Cleaner(corpus), Rejects(), self._removal()
        heldout_below = _heldout_below(corpus, part_slice)
        limit = self._plan.config.part_mib << 20
        parts: list[dict[str, Any]] = []
        writer: PartWriter | None = None
        lengths: Counter[int] = Counter()
        kept = read = written = 0
        for piece in part_slice.pieces:
            for where, raw in read_piece(piece, corpus, rejects, advance):
                read += _utf8_bytes(raw)
                text, reason = cleaner(raw)
                del raw  # a document may be long
                if reason is not None:
                    rejects.add(reason, where)
                    continue
                if removal is not None:
                    text, goes = removal(text, where)
                    if goes or cleaner.is_short(text):
                        rejects.add(CONTAMINATED, where)
                        continue
                digest = text_hash(text)
                size = _utf8_bytes(text)
                kept += 1
                written += size
                lengths[len(text).bit_length()] += 1
                writer = writer or PartWriter(outputs, f"{item.name}-{len(parts):03d}", hashed=corpus.dedupe != "none")
                writer.add(text, size, digest, _draw(digest) < heldout_below)
                if writer.bytes >= limit:
                    parts.append(writer.close())
                    writer = None
        if writer is not None:
            parts.append(writer.close())
        return {
            "documents_in": kept + sum(count for reason, count in rejects.counts.items() if reason != BAD_FILE),
            "documents_out": kept,
            "bytes_in": read,
            "bytes_out": written,
            "parts": parts,
            "dropped": dict(rejects.counts),
            "examples": rejects.examples,
            "lengths": {str(bits): count for bits, count in sorted(lengths.items())},
            **({} if removal is None else removal.facts()),
        }

    @cached_property
    def _passages(self) -> "Passages | None":
        """The n-grams of the evaluation sets; numba, which they need, takes half a second."""
        if self._plan.config.decontamination is None:
            return None
        from data_prep.decontamination.passages import Passages

        sets = {name: list(map(Path, files)) for name, files in self._plan.evaluation_sets.items()}
        return Passages(sets, self._plan.config.decontamination.ngram)

    def _removal(self) -> "Removal | None":
        if self._passages is None:
            return None
        from data_prep.decontamination.removal import Removal

        return Removal(self._passages, self._plan.config.decontamination.remove)

    def parts(self, facts: list[Facts]) -> list[Part]:
        """Number the parts that the slices gave."""
        parts: list[Part] = []
        indices: Counter[str] = Counter()
        first = 0
        for fact in facts:
            corpus = self._slices[fact.item].corpus
            for written in fact.counts["parts"]:
                parts.append(Part(corpus=corpus, index=indices[corpus], first=first, **written))
                indices[corpus] += 1
                first += written["documents"]
        return parts


def _heldout_below(corpus: CorpusConfig, part_slice: Slice) -> float:
    """The draw from which on a document is trained on."""
    if part_slice.heldout:
        return 1.0
    return 0.0 if corpus.heldout_files else corpus.heldout_fraction


def _draw(digest: bytes) -> float:
    """A number from [0, 1), the same for equal texts wherever they stand."""
    draw = hashlib.blake2b(digest, digest_size=8, person=b"held-out").digest()
    return (int.from_bytes(draw, "little") >> 11) * 2.0**-53


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


_SPACE = bytes(code for code in range(128) if chr(code).isspace())
_WIDE_SPACE = [chr(code) for code in range(128, 0x3001) if chr(code).isspace()]


def text_hash(text: str) -> bytes:
    """Return the 128-bit hash by which texts are equal that differ in case and white space alone."""
    return hashlib.blake2b(_without_wide_space(text.lower()).encode().translate(None, _SPACE), digest_size=16).digest()


def _without_wide_space(text: str) -> str:
    if not text.isascii():
        for space in _WIDE_SPACE:
            text = text.replace(space, "")
    return text
