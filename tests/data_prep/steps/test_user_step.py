import logging

import pytest

from data_prep.jobs.workers import Alone
from data_prep.plans.drafting import draft_plan
from data_prep.prepare import prepare_together
from data_prep.settings import CorpusConfig, DataPrepConfig, TokenizerConfig
from data_prep.steps.sequence import Sequence
from data_prep.text.document import Document
from pipeline.common.config import validate
from pipeline.common.errors import UserError
from tests.data_prep.preparing import preparation, write_jsonl
from tests.data_prep.prose import made_up_texts

MADE = "tests.data_prep.steps.made"


def sequence_of(asked: CorpusConfig) -> Sequence:
    return Sequence(asked, asked.all_steps)


def corpus(*steps: object, files: str = "-") -> CorpusConfig:
    return validate(CorpusConfig, {"files": [files], "steps": list(steps)}, "c.yaml")


def test_a_class_of_ones_own_changes_text_and_columns_and_drops():
    sequence = sequence_of(corpus("normalize", {f"{MADE}:Upper": {"times": 2}}))
    document = Document(" ab ", "-")
    assert sequence(document) is None
    assert (document.text, document.columns) == ("ABAB", {"capitals": 4})
    assert sequence(Document("1 ab", "-")) == "begins with a digit"


def test_its_source_and_its_files_are_inputs_of_the_plan(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    plan = draft_plan(
        DataPrepConfig(
            output_dir="-",
            corpora=[corpus(f"{MADE}:Upper", files=str(tmp_path / "a.jsonl"))],
            tokenizer=TokenizerConfig(vocab_size=300),
        )
    )
    assert [item.name.rpartition("/")[2] for item in plan.inputs] == ["a.jsonl", "made.py", "__init__.py"]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("no_such_module:Class", "cannot be imported (ModuleNotFoundError"),
        (f"{MADE}:Nothing", "cannot be imported (AttributeError"),
        ({f"{MADE}:Upper": {"time": 2}}, "does not take the options {'time': 2} (TypeError"),
        (f"{MADE}:NO_CLASS", "does not take the options"),
        ({f"{MADE}:Faulty": {"how": "check"}}, "its check() fails (KeyError: 'unchecked')"),
    ],
)
def test_a_class_that_there_is_not_or_that_takes_other_options_is_refused_before_text_is_read(step, message):
    with pytest.raises(UserError) as refused:
        corpus(step).all_steps[0].check()
    assert message in str(refused.value)
    assert str(refused.value).count("steps: ") == 1


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raise", "fails at a.jsonl: line 3 (ZeroDivisionError: by nothing)"),
        ("text", "leaves None as the text at a.jsonl: line 3"),
        ("return", "returns 7 at a.jsonl: line 3"),
        ("exit", "fails at a.jsonl: line 3 (SystemExit: 0)"),
        ("columns", "leaves None as the columns at a.jsonl: line 3"),
        ("where", "leaves 3 as the place at a.jsonl: line 3"),
        ("object", "leaves a value of the type object in the columns at a.jsonl: line 3"),
        ("deep", "leaves lists or objects more than 100 deep in the columns at a.jsonl: line 3"),
        ("large", "leaves a whole number of more than 64 bits in the columns at a.jsonl: line 3"),
        ("blank", "returns ' ' at a.jsonl: line 3"),
    ],
)
def test_a_class_that_does_what_no_step_may_is_named_with_the_document(how, message):
    with pytest.raises(UserError) as refused:
        sequence_of(corpus({f"{MADE}:Faulty": {"how": how}}))(Document("x", "a.jsonl: line 3"))
    assert message in str(refused.value)


def test_a_class_that_gives_every_document_a_reason_of_its_own_is_refused():
    sequence = sequence_of(corpus({f"{MADE}:Faulty": {"how": "reasons"}}))
    with pytest.raises(UserError, match="gives more than 1000 different reasons"):
        for number in range(1100):
            sequence(Document(f"x{number}", "-"))


@pytest.mark.parametrize("reason", ["bad file", "exact copy", "where"])
def test_a_reason_that_other_losses_are_counted_by_is_refused(reason):
    with pytest.raises(UserError, match=f"gives the reason '{reason}', which other losses are counted by"):
        sequence_of(corpus({f"{MADE}:Faulty": {"how": "reasons"}}))(Document(reason, "-"))


def test_what_a_class_remembers_of_one_item_is_not_there_in_the_next():
    asked = corpus(f"{MADE}:Counting")
    for _ in range(2):
        sequence = sequence_of(asked)
        documents = [Document("x", "-") for _ in range(3)]
        for document in documents:
            sequence(document)
        assert [document.columns["number"] for document in documents] == [1, 2, 3]


def test_a_finished_folder_is_refused_when_the_class_has_changed(tmp_path, monkeypatch, caplog):
    (tmp_path / "steps_of_mine.py").write_text("class Same:\n    def __call__(self, document):\n        return None\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, "data_prep")
    files = [write_jsonl(tmp_path / "a.jsonl", made_up_texts(60))]
    asked = preparation(tmp_path / "out", {"files": files, "steps": ["steps_of_mine:Same"], "heldout_fraction": 0.2})
    for _ in range(2):
        prepare_together(asked, Alone())
    assert "is prepared already" in caplog.messages[-1]
    with open(tmp_path / "steps_of_mine.py", "a", encoding="utf-8") as file:
        file.write("# another\n")
    with pytest.raises(UserError, match=r"steps_of_mine\.py: has changed since"):
        prepare_together(asked, Alone())
