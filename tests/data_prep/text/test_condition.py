import pytest

from data_prep.text.condition import Condition, ConditionError

RECORD = {"score": 4, "language": "de", "meta.lang": "en", "meta.site": "x", "tags": ["a", "b"], "none": None}


@pytest.mark.parametrize(
    ("expression", "fulfilled"),
    [
        ("score >= 3", True),
        ("score > 4", False),
        ("3 < score <= 4", True),
        ('score >= 3 and language == "en"', False),
        ('score >= 3 and (language == "en" or language.startswith("d"))', True),
        ('language in ("de", "en")', True),
        ('language not in ["de"]', False),
        ('"a" in tags and len(tags) == 2', True),
        ("not score > 4", True),
        ("score * 2 - 1 == 7", True),
        ('meta.lang == "en"', True),
        ('meta.site == "x"', True),
        ("none == None", True),
        ("none != None", False),
        ("none >= 3", False),
        ("none < 3", False),
        ("not none < 3", True),
        ('"a" in none', False),
        ("int(score) == 4 and float(score) == 4.0", True),
    ],
)
def test_a_condition_is_as_python_has_it_and_nothing_is_less_or_more_than_null(expression, fulfilled):
    condition = Condition(expression)
    assert condition({name: RECORD[name] for name in condition.columns}) is fulfilled


def test_the_columns_of_a_condition_are_its_names_whole_and_without_methods_and_functions():
    assert Condition('a.b >= 1 and len(c) > 2 and d.lower() == "x" and a.b < e.f.g').columns == ["a.b", "c", "d", "e.f.g"]


@pytest.mark.parametrize(
    "expression",
    ["score >=", "3 > 2", "score = 3", "a; b", "[x for x in y]", "lambda: x", "x ** 9", "", "__import__('os')", "open(x)"],
)
def test_what_is_no_condition_is_refused(expression):
    with pytest.raises(ConditionError, match=r"is no condition|calls "):
        Condition(expression)


@pytest.mark.parametrize("expression", ["score >= 3", 'score.startswith("x")', "score[9] == 1", "1 / score > 2"])
def test_values_that_a_condition_does_not_fit_are_named(expression):
    with pytest.raises(ConditionError, match=r"cannot be evaluated for score: "):
        Condition(expression)({"score": "4" if ">= 3" in expression or "/" in expression else []})


def test_a_condition_reaches_nothing_of_pythons_own():
    assert Condition("x.__class__ == 1").columns == ["x.__class__"]  # a column, and no attribute
    for expression in ("x.__class__() == 1", "x.__init__.__globals__() == 1", '("s").__class__ == 1 or x', 'x.format("a")'):
        with pytest.raises(ConditionError, match="cannot be evaluated for"):
            Condition(expression)({"x": "s"})
