"""Tasks that a recipe may ask for during training."""

import pytest

from pipeline.common.errors import UserError
from pipeline.families import FAMILIES
from pipeline.recipe import Recipe
from pipeline.training.directory.run_directory import RunDirectory
from pipeline.training.loop.tasks import check_tasks
from pipeline.training.preparation.preparation import preview_run

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def recipe(evaluation: dict) -> Recipe:
    return Recipe(
        run_dir="unused",
        data={"shards": "unused", "sequence_length": 16},
        source={"model": {"family": "gpt2", **SIZES}, "steps": 1},
        target={"hidden_size": 64},
        stages=[{"name": "full", "steps": 1}],
        evaluation=evaluation,
    )


@pytest.mark.parametrize(
    ("task", "family", "sentence"),
    [
        ("wikitext-2", "gpt2", "evaluation.tasks: no task 'wikitext-2'; did you mean 'wikitext2'?"),
        (
            "sst2",
            "gpt2",
            "evaluation.tasks: sst2 trains a copy of the model on it, which is not done during training; score it",
        ),
        ("lm_eval:arc_easy", "gpt2", "evaluation.tasks: lm_eval:arc_easy is lm_eval's, which is not run during training"),
        ("lambada", "bert", "evaluation.tasks: lambada asks what comes next, and bert is a masked model"),
        ("text:absent.txt", "gpt2", "absent.txt: no such file"),
        ("ptb", "gpt2", "no file of ptb there; looked for ptb/test.txt"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_is_trained(tmp_path, task, family, sentence):
    with pytest.raises(UserError) as refused:
        check_tasks(recipe({"tasks": [task], "data": [str(tmp_path)]}), FAMILIES[family])
    assert sentence in str(refused.value)


def test_options_of_tasks_want_tasks():
    with pytest.raises(ValueError, match="`tasks_every` goes with `tasks`; name some"):
        recipe({"tasks_every": 10})


def test_a_dry_run_looks_for_the_tasks_files(tmp_path):
    asked = recipe({"tasks": ["ptb"], "data": [str(tmp_path)]})
    with pytest.raises(UserError, match="no file of ptb there"):
        preview_run(asked, {"train_batch_size": 1}, RunDirectory(tmp_path / "run"), 1, 1000)
