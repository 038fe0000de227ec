from pathlib import Path

import datasets
import pytest

from data_prep.settings import CorpusConfig
from data_prep.text.input_ranges import InputRange
from data_prep.text.readers import read_range
from data_prep.text.rejects import Rejects
from data_prep.text.saved_datasets import ranges_of_dataset
from pipeline.common.errors import UserError
from tests.data_prep.prose import made_up_texts
from tests.data_prep.text.reading import texts_of


def saved(path: Path, texts: list[str]) -> CorpusConfig:
    """A corpus of a dataset that is saved there."""
    datasets.Dataset.from_dict({"text": texts}).save_to_disk(path)
    return CorpusConfig(dataset=str(path))


def ranges_of(corpus: CorpusConfig, range_bytes: int = 1 << 20) -> list[InputRange]:
    return ranges_of_dataset(corpus.dataset, corpus, range_bytes)[0]


def test_datasets_of_hugging_face_are_read_in_runs_of_rows(tmp_path):
    texts = made_up_texts(40)
    saved = datasets.Dataset.from_dict({"text": texts, "n": list(range(40))})
    saved.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": saved, "test": saved.select([3])}).save_to_disk(tmp_path / "two")

    def read_dataset(range_bytes: int, **options: object) -> list[list[str]]:
        corpus = CorpusConfig(**options)
        ranges, size, digest = ranges_of_dataset(corpus.dataset, corpus, range_bytes)
        assert size >= sum(len(text.encode()) for text in texts[3:4])
        assert digest
        return [texts_of(input_range, corpus) for input_range in ranges]

    for name in ("one", "two"):
        assert read_dataset(1 << 30, dataset=str(tmp_path / name)) == [texts]
        by_range = read_dataset(5000, dataset=str(tmp_path / name))
        assert len(by_range) > 5
        assert [text for input_range in by_range for text in input_range] == texts
    assert read_dataset(1, dataset=str(tmp_path / "two"), dataset_split="test") == [[texts[3]]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset_split": "dev"}, "no split 'dev'; it has train"),
        ({"text_field": "body"}, "no column 'body'; it has text"),
        ({"dataset": "{}/nothing"}, "nothing: does not load as a dataset"),
        ({"dataset": "{}"}, "does not load as a dataset"),
    ],
)
def test_a_dataset_that_does_not_load_is_refused_by_name(tmp_path, monkeypatch, options, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["a"]})}).save_to_disk(tmp_path / "two")
    options = {"dataset": "{}/two"} | options
    with pytest.raises(UserError, match=message) as refused:
        name = options["dataset"].format(tmp_path)
        ranges_of_dataset(name, CorpusConfig(**options | {"dataset": name}), 100)
    assert str(tmp_path) in str(refused.value)


def test_a_dataset_is_opened_once_for_all_of_its_ranges(tmp_path, monkeypatch):
    corpus = saved(tmp_path / "one", made_up_texts(40))
    ranges, opened, load = ranges_of(corpus, 5000), [], datasets.load_from_disk
    monkeypatch.setattr(datasets, "load_from_disk", lambda name: opened.append(name) or load(name))
    assert sum(len(texts_of(input_range, corpus)) for input_range in ranges) == 40
    assert len(ranges) > 5 and opened == [corpus.dataset]


def test_a_dataset_that_has_changed_since_it_was_planned_is_refused(tmp_path):
    corpus = saved(tmp_path / "one", ["a", "b"])
    (input_range,) = ranges_of(corpus)
    saved(tmp_path / "other", ["a", "c"])
    (tmp_path / "one").rename(tmp_path / "put away")
    (tmp_path / "other").rename(tmp_path / "one")
    with pytest.raises(UserError, match=r"one: the dataset has changed since the plan .*; put it back, or remove output_dir"):
        texts_of(input_range, corpus)
    (again,) = ranges_of(corpus)
    assert texts_of(again, corpus) == ["a", "c"]


def test_rows_without_text_are_bad_records(tmp_path):
    corpus, rejects = saved(tmp_path / "one", ["a", None]), Rejects()
    (input_range,) = ranges_of(corpus)
    assert texts_of(input_range, corpus, rejects) == ["a"]
    assert rejects.examples == {"bad record": [f"{tmp_path}/one: row 1: no text"]}


@pytest.mark.parametrize("kind", ["struct", "list", "binary", "large_string", "spelled"])
def test_text_is_read_from_structs_lists_and_bytes(tmp_path, kind):
    texts = ["first", "second\nof two lines", "dritter äöü"]
    columns = {
        "struct": {"meta": [{"body": text, "n": 1} for text in texts]},
        "list": {"meta.body": [text.split("\n") for text in texts]},
        "binary": {"meta.body": [text.encode() for text in texts]},
        "large_string": {"meta.body": texts},
        "spelled": {"meta.body": texts, "meta": [{"body": "another"}] * 3},
    }[kind]
    features = datasets.Features({"meta.body": datasets.Value("large_string")}) if kind == "large_string" else None
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "one")
    corpus = CorpusConfig(dataset=str(tmp_path / "one"), text_field="meta.body")
    assert [text for input_range in ranges_of(corpus, 1) for text in texts_of(input_range, corpus)] == texts


def test_a_column_without_text_is_refused_by_what_it_holds_as_one_of_parquet_is(tmp_path):
    name = str(tmp_path / "one")
    datasets.Dataset.from_dict({"text": [[{"role": "user"}]]}).save_to_disk(name)
    with pytest.raises(UserError, match=r"one: column 'text' holds list<.*role.*>, as chats do"):
        ranges_of_dataset(name, CorpusConfig(dataset=name), 100)


def test_what_is_read_of_a_dataset_is_reported(tmp_path):
    corpus = saved(tmp_path / "one", made_up_texts(1000))
    (input_range,), size, _ = ranges_of_dataset(corpus.dataset, corpus, 1 << 30)
    reported: list[int] = []
    assert len(list(read_range(input_range, corpus, Rejects(), reported.append))) == 1000
    assert len(reported) == 8 and sum(reported) == pytest.approx(size, abs=8)
