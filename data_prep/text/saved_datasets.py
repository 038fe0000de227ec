"""Datasets of Hugging Face's library: saved to disk, or on the hub."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.settings import CorpusConfig
from data_prep.text.columns import Columns, find_columns
from data_prep.text.document import Document
from data_prep.text.input_ranges import InputRange
from data_prep.text.rejects import BadRecords, DamagedError
from pipeline.common.errors import UserError, one_line
from pipeline.common.progress import Advance

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH_ROWS = 128


def ranges_of_dataset(name: str, corpus: CorpusConfig, range_bytes: int) -> tuple[list[InputRange], int, str]:
    """Return (ranges, bytes, fingerprint) of a corpus's dataset; raises UserError where it does not load."""
    dataset, columns = _loaded(name, corpus)
    size, rows, fingerprint = dataset.select_columns([columns.text[0]]).data.nbytes, len(dataset), dataset._fingerprint
    step = max(1, rows * range_bytes // max(size, 1))
    ranges = []
    for start in range(0, rows, step):
        count = min(step, rows - start)
        ranges.append(
            InputRange(path=name, start=start, stop=start + count, size=count * size // rows, fingerprint=fingerprint)
        )
    return ranges, size, fingerprint


def read_dataset(input_range: InputRange, corpus: CorpusConfig, bad: BadRecords, advance: Advance) -> Iterator[Document]:
    """Yield the texts of the range's rows; raises UserError where the dataset is not the planned one."""
    dataset, columns = _planned(input_range.path, corpus.model_dump_json(), input_range.fingerprint)
    row = input_range.start
    for table in dataset.select(range(input_range.start, input_range.stop)).iter(_BATCH_ROWS):
        yield from columns.documents(table, input_range.path, row, bad)
        row += table.num_rows
        advance(input_range.size * table.num_rows // (input_range.stop - input_range.start))


@lru_cache(maxsize=4)
def _planned(name: str, corpus_json: str, fingerprint: str | None) -> tuple["Dataset", Columns]:
    """The dataset's columns as arrow's tables, opened once for all ranges: one of the hub asks the network each time."""
    corpus = CorpusConfig.model_validate_json(corpus_json)
    dataset, columns = _loaded(name, corpus)
    if dataset._fingerprint != fingerprint:
        raise UserError(
            f"{name}: the dataset has changed since the plan was made; put it back, or remove output_dir to restart"
        )
    tops = list(dict.fromkeys(place[0] for place in columns.places))
    return dataset.select_columns(tops).with_format("arrow"), columns


def _loaded(name: str, corpus: CorpusConfig) -> tuple["Dataset", Columns]:
    import datasets  # slow to import, and seldom needed

    split = corpus.dataset_split
    try:
        local = Path(name).is_dir()
        dataset = datasets.load_from_disk(name) if local else datasets.load_dataset(name, corpus.dataset_config, split=split)
    except Exception as error:  # the library passes on the errors of its file systems and its network
        raise UserError(
            f"{name}: does not load as a dataset ({one_line(error)}); name a directory that "
            "save_to_disk wrote, or a dataset of the hub where there is a network"
        ) from None
    if isinstance(dataset, datasets.DatasetDict):
        if split not in dataset:
            raise UserError(f"{name}: no split {split!r}; it has {', '.join(dataset)} (dataset_split)")
        dataset = dataset[split]
    try:
        return dataset, find_columns(dataset.features.arrow_schema, corpus)
    except DamagedError as error:
        raise UserError(f"{name}: {error}") from None
