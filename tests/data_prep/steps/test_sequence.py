import pytest

from data_prep.settings import CorpusConfig
from data_prep.steps.registry import STEPS
from data_prep.steps.sequence import Sequence
from data_prep.text.document import Document
from data_prep.text.rejects import TOO_LONG, TOO_SHORT
from pipeline.common.config import validate
from pipeline.common.errors import UserError


def corpus(**keys) -> CorpusConfig:
    return validate(CorpusConfig, {"files": ["-"]} | keys, "c.yaml")


def sequence_of(asked: CorpusConfig) -> Sequence:
    return Sequence(asked, asked.all_steps)


def taken(text: str, *steps: object) -> tuple[str, str | None]:
    document = Document(text, "-")
    reason = sequence_of(corpus(steps=list(steps)))(document)
    return document.text, reason


def test_steps_are_carried_out_in_their_order_and_may_be_repeated_or_left_out():
    drop = {"remove_lines": {"patterns": ["^x"]}}
    length = {"length": {"min": 4}}
    assert taken("x\r\nabc", drop, length) == ("abc", TOO_SHORT)
    assert taken("x\r\nabc", length, drop) == ("abc", None)
    assert taken(" x\r\nabc", drop) == ("x\r\nabc", None)  # the line begins otherwise before it is normalized
    assert taken(" \x00 x\r\nabc", "normalize", drop) == ("abc", None)
    assert taken("x\nabc\ny", drop, {"remove_lines": {"patterns": ["^y"]}}) == ("abc", None)


def test_without_steps_the_keys_stand_for_them():
    assert [step.entry() for step in corpus(unicode="NFKC", boilerplate=["^x"], min_length=9, languages=["en"]).all_steps] == [
        {"normalize": {"form": "NFKC"}},
        {"remove_lines": {"patterns": ["^x"]}},
        {"length": {"min": 9, "max": None, "unit": "characters"}},
        {"language": STEPS["language"](keep=["en"]).model_dump(mode="json")},
    ]


def test_a_corpus_is_the_same_when_its_dump_is_read_again():
    for keys in (
        {"steps": ["normalize", {"length": {"min": 3}}, {"tests.data_prep.steps.made:Upper": {"times": 2}}]},
        {"min_length": 5},
        {},
    ):
        one = corpus(**keys)
        assert CorpusConfig.model_validate_json(one.model_dump_json()).model_dump() == one.model_dump()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"steps": ["nomalize"]}, "a step: unknown key 'nomalize'; did you mean 'normalize'?"),
        ({"steps": [{"length": {"minimum": 3}}]}, "length: unknown key 'minimum'; did you mean 'min'?"),
        ({"steps": [{"length": {"min": -1}}]}, "greater than or equal to 0"),
        ({"steps": [{"length": {"min": 9, "max": 3}}]}, "no document has such a length"),
        ({"steps": [{"remove_lines": {}}]}, "Field required"),
        ({"steps": [{"remove_lines": {"patterns": ["("]}}]}, "is no regular expression"),
        ({"steps": [{"length": {}, "normalize": {}}]}, "a step is a name"),
        ({"steps": [3]}, "a step is a name"),
        ({"steps": []}, "at least 1 item"),
        ({"steps": ["normalize"], "min_length": 3}, "`min_length` is not given beside `steps`; name the step `length` there"),
        ({"steps": ["normalize"], "languages": ["en"]}, "name the step `language` there"),
        ({"steps": ["deduplicate", "normalize", "deduplicate"]}, "`deduplicate` is named twice"),
        ({"steps": ["deduplicate", "normalize"], "dedupe": "none"}, "`dedupe: none` asks for none"),
        ({"boilerplate": ["("]}, "is no regular expression"),
        ({"where": "score >"}, "is no condition"),
        ({"files": [], "corpus": "python_docs", "where": "a > 1"}, "python_docs has no columns"),
        ({"files": [], "shards": ["s"], "columns": ["id"]}, "`columns` is of text that is prepared"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_with_its_place(keys, message):
    with pytest.raises(UserError) as refused:
        corpus(**keys)
    assert message in str(refused.value) and str(refused.value).startswith("c.yaml: ")


def test_a_document_that_nothing_is_left_of_is_too_short_and_a_huge_one_is_not_looked_at():
    assert taken(" \x00 ", "normalize") == ("", TOO_SHORT)
    assert taken(" \n\u3000", {"length": {}}) == (" \n\u3000", TOO_SHORT)
    document = Document("x" * 11, "-")
    assert sequence_of(corpus(steps=["normalize"], max_characters=10))(document) == TOO_LONG
    assert taken("x" * 11, {"length": {"max": 10}})[1] == TOO_LONG


def test_documents_that_a_step_changes_are_counted():
    sequence = sequence_of(corpus(steps=["normalize", {"remove_lines": {"patterns": ["^x"]}}]))
    for text in ("x\na", "a\nb", " a"):
        sequence(Document(text, "-"))
    assert sequence.changed == {"normalize": 1, "remove_lines": 1}
