"""SQuAD's questions as windows, and answers back in the passage's characters."""

import json
from itertools import pairwise

import numpy as np
import pytest

from pipeline.common.errors import UserError
from pipeline.evaluation.tuning.examples import Question, TaskData
from pipeline.evaluation.tuning.model import open_pretrained
from pipeline.evaluation.tuning.spans import Answering, best_answers, windows
from pipeline.evaluation.tuning.squad import SQUAD, read_questions
from tests.pipeline.evaluation.tuning.conftest import SHARED, save_bert, squad_file

PASSAGE = "  Thé river —it was, in the  city—; and by   a very good plot . "
ANSWER = "city—; and by"


def logits_of(made, question):
    """Logits that are right: high where the windows say that the answer is."""
    width = max(len(window.ids) for window in made)
    starts, ends = np.zeros((len(made), width)), np.zeros((len(made), width))
    for row, window in enumerate(made):
        if window.question == question and window.end:
            starts[row, window.start], ends[row, window.end] = 5, 5
    return starts, ends


@pytest.mark.parametrize("max_length", [16, 24, 64])
def test_an_answer_comes_back_as_the_characters_of_the_passage(bert, max_length):
    asked = Question("1", "a", " what city ?", PASSAGE, ((PASSAGE.index(ANSWER), ANSWER),))
    other = Question("2", "a", "who ?", "it was .", ((0, "it"),))
    made = windows([other, asked, other], open_pretrained(bert), max_length)
    assert all(len(window.ids) <= max_length for window in made)
    assert [window.question for window in made] == sorted(window.question for window in made)
    assert best_answers([other, asked, other], made, *logits_of(made, 1))[1] == ANSWER


def test_windows_cover_the_passage_and_overlap(bert):
    context = " ".join(["good", "bad", "the", "plot"] * 20)
    pretrained = open_pretrained(bert)
    made = windows([Question("1", "a", "what ?", context, ((0, "good"),))], pretrained, 32)
    seen = [{tuple(span) for span in window.characters.tolist() if span[0] >= 0} for window in made]
    words = len(context.split())
    assert len(set.union(*seen)) == words
    assert all(len(one & two) == 32 // 4 for one, two in pairwise(seen))
    assert [window.end > 0 for window in made] == [True] + [False] * (len(made) - 1)
    ids = made[0].ids.tolist()
    assert pretrained.tokenizer.decode(ids[:4]) == "[CLS] what? [SEP]"
    assert made[0].types.tolist() == [0] * 4 + [1] * (len(ids) - 4)


def test_a_long_question_is_cut_and_leaves_room(bert):
    asked = Question("1", "a", " ".join(["what"] * 100), "it was .", ((0, "it"),))
    (window,) = windows([asked], open_pretrained(bert), 64)
    assert (window.ids == open_pretrained(bert).tokenizer.convert_tokens_to_ids("what")).sum() == 64 // 4


def test_the_best_span_is_that_of_all_pairs(bert):
    """Against a search over all pairs, one by one."""
    questions = [
        Question(str(n), "a", "what ?", " ".join(["good", "bad", "the", "plot"] * 15), ((0, "good"),)) for n in range(3)
    ]
    made = windows(questions, open_pretrained(bert), 48)
    draw = np.random.default_rng(0)
    starts, ends = draw.normal(size=(2, len(made), 48))
    expected = [(-np.inf, "")] * 3
    for window, start, end in zip(made, starts, ends, strict=True):
        for first in range(len(window.ids)):
            for last in range(first, min(len(window.ids), first + 30)):
                if min(window.characters[first, 0], window.characters[last, 0]) >= 0:
                    text = questions[0].context[window.characters[first, 0] : window.characters[last, 1]]
                    expected[window.question] = max(expected[window.question], (start[first] + end[last], text))
    assert best_answers(questions, made, starts, ends) == [text for _, text in expected]


def test_articles_are_split_where_one_file_is_missing(tmp_path):
    squad_file(tmp_path / "squad" / "squad-dev-v1.1.json", 10)
    data = SQUAD.read([tmp_path])
    to_train, to_score = ({question.article for question in part} for part in (data.train, data.dev[""]))
    assert (len(to_train), len(to_score), to_train & to_score) == (8, 2, set())
    assert data.description["note"] == "train part: 80% of the articles of squad-dev-v1.1.json, scored are the others"
    squad_file(tmp_path / "squad" / "train-v1.1.json", 3)
    data = SQUAD.read([tmp_path])
    assert (len(data.train), len(data.dev[""]), data.description["note"]) == (12, 40, None)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda asked: asked["answers"].clear(), "question 0.0 has no answer"),
        (lambda asked: asked["answers"][0].update(answer_start=1), "question 0.0 has its answer .* not at character 1"),
        (lambda asked: asked.pop("answers"), "not laid out as SQuAD 1.1"),
    ],
)
def test_a_file_that_is_no_squad_is_refused(change, sentence, tmp_path):
    path = squad_file(tmp_path / "dev-v1.1.json", 2)
    content = json.loads(path.read_text())
    change(content["data"][0]["paragraphs"][0]["qas"][0])
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=sentence):
        read_questions(path)
    path.write_text("")
    with pytest.raises(UserError, match="not readable as JSON"):
        read_questions(path)


def test_inputs_that_hold_nothing_are_refused(tmp_path):
    pretrained = open_pretrained(save_bert(tmp_path / "short", positions=8))
    with pytest.raises(UserError, match="8 tokens hold no question and passage"):
        Answering(TaskData([], {"": []}, "", ""), pretrained, pretrained.length(None, 384))


@pytest.mark.skipif(not (SHARED / "eval").is_dir(), reason=f"{SHARED / 'eval'} is not there")
def test_squads_own_answers_come_back(bert):
    """Of the words that the tokenizer keeps whole: it gives back a whole word where the answer is a part of one."""
    questions = read_questions(SHARED / "eval" / "squad-dev-v1.1.json")
    assert len(questions) == 10570
    questions = questions[::300]
    made = windows(questions, open_pretrained(bert), 64)
    found = []
    for number, question in enumerate(questions):
        answer = best_answers(questions, made, *logits_of(made, number))[number]
        inside = any(window.question == number and window.end for window in made)
        found.append(not inside or question.answers[0][1] in answer)
    assert all(found)
