"""Stage `clean`: slices of the inputs to parts of cleaned documents."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from data_prep.jobs.job import Facts, Item, Outputs
from data_prep.plans.frozen_plan import is_same
from data_prep.plans.plan import InputSlice, Plan
from data_prep.settings import CorpusConfig
from data_prep.steps.sequence import Sequence, is_short
from data_prep.storage.stores import is_url, source_of
from data_prep.text.document_parts import FOLDER, DocumentPart, DocumentWriter
from data_prep.text.readers import read_range
from data_prep.text.rejects import BAD_FILE, CONTAMINATED, Rejects
from data_prep.text.slice_writer import SliceWriter, utf8_bytes
from data_prep.text.values import as_json
from pipeline.common.errors import UserError
from pipeline.common.progress import BYTES, Advance

if TYPE_CHECKING:
    from data_prep.decontamination.passages import Passages, Removal


class Clean:
    """Read, clean and hash; a slice's parts are as long as `part_mib` says, however large the slice is."""

    name = "clean"
    unit = BYTES

    def __init__(self, plan: Plan, modified: Mapping[str, int]) -> None:
        """`modified` is when each input was last modified (nanoseconds since 1970) before it was hashed."""
        self._plan = plan
        self._modified = modified
        self._slices = {item.name: item for item in plan.slices}
        read = {input_range.path for part_slice in plan.slices for input_range in part_slice.pieces}
        files = [item for item in plan.files if not is_url(item.name)]
        self._files = {item.name: item for item in files}
        self._of_all = [item.name for item in files if item.name not in read]
        """What every slice depends on: evaluation sets, a step's files."""
        self._passages: Passages | None = None
        """The n-grams of the evaluation sets, once they are read."""

    def items(self) -> list[Item]:
        """The plan's slices."""
        return [Item(each.name, each.size) for each in self._plan.slices]

    def work(self, item: Item, outputs: Outputs, advance: Advance) -> dict[str, Any]:
        """Write a slice's parts."""
        part_slice = self._slices[item.name]
        corpus = self._plan.corpus(part_slice.corpus)
        sequence, rejects, removal = Sequence(corpus, corpus.early_steps), Rejects(), self._removal()
        text = self._plan.config.cleaned_text
        dropped = DocumentWriter(outputs.path(dropped_file(item.name))) if text is not None and text.dropped else None
        written = SliceWriter(
            outputs,
            item.name,
            hashed=corpus.dedupe != "none",
            heldout_below=_heldout_below(corpus, part_slice),
            part_bytes=self._plan.config.part_mib << 20,
        )
        read = 0
        seen: set[str] = set()
        for input_range in part_slice.pieces:
            for document in read_range(input_range, corpus, rejects, advance):
                read += utf8_bytes(document.text)
                seen.update(document.columns)
                document.dropped = document.dropped or sequence(document)
                if document.dropped is None and removal is not None:
                    before = document.text
                    if removal(document) or (document.text != before and is_short(document, corpus)):
                        document.dropped = CONTAMINATED
                # Dropped or not: a lone surrogate is no character, and no file takes it.
                document.text = as_json(document.text)
                if document.dropped is None:
                    written.add(document)
                    continue
                rejects.add_document(document, document.dropped)
                if dropped is not None:
                    dropped.add(document, utf8_bytes(document.text))
        if dropped is not None:
            dropped.close()
        facts = written.close()
        self._check_unchanged(part_slice)
        return {
            "documents_in": facts["documents_out"] + sum(rejects.counts.values()) - rejects.counts[BAD_FILE],
            "bytes_in": read,
            **facts,
            "columns": sorted(seen & set(corpus.read_columns)),
            "dropped": dict(rejects.counts),
            "examples": rejects.examples,
            "shown": rejects.shown,
            "changed": dict(sequence.changed),
            "dropped_by": sequence.dropped,
            **({} if removal is None else removal.facts()),
        }

    def _check_unchanged(self, part_slice: InputSlice) -> None:
        """Raise UserError where a file here has changed since it was hashed; of a store's file its range's reader finds out."""
        for name in dict.fromkeys([*(input_range.path for input_range in part_slice.pieces), *self._of_all]):
            if name in self._files and not is_same(self._files[name], self._modified.get(name)):
                raise UserError(f"{name}: has changed since it was hashed; leave it as it is, and start the same command again")

    def _removal(self) -> "Removal | None":
        """What removes passages of evaluation sets from documents, where it is asked for."""
        config = self._plan.config.decontamination
        if config is None:
            return None
        # For numba, which they need, and which takes half a second.
        from data_prep.decontamination.passages import Passages, Removal

        if self._passages is None:
            sets = {name: list(map(source_of, files)) for name, files in self._plan.evaluation_sets.items()}
            self._passages = Passages(sets, config.ngram)
        return Removal(self._passages, config.remove)

    def parts(self, facts: list[Facts]) -> list[DocumentPart]:
        """Number the parts that the slices gave."""
        parts: list[DocumentPart] = []
        indices: Counter[str] = Counter()
        first = 0
        for fact in facts:
            corpus = self._slices[fact.item].corpus
            for written in fact.counts["parts"]:
                parts.append(DocumentPart(corpus=corpus, index=indices[corpus], first=first, **written))
                indices[corpus] += 1
                first += written["documents"]
        return parts


def dropped_file(slice_name: str) -> str:
    """Return the name of the file of a slice's dropped documents, below the job's folder."""
    return f"{FOLDER}/{slice_name}.dropped.parquet"


def _heldout_below(corpus: CorpusConfig, part_slice: InputSlice) -> float:
    """The draw from which on a document is trained on."""
    if part_slice.heldout:
        return 1.0
    return 0.0 if corpus.heldout_files else corpus.heldout_fraction
