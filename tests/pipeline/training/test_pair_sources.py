"""Sources with and without a head on sentence pairs, for recipes that ask for one and that do not."""

import pytest
from transformers import BertForMaskedLM, BertForPreTraining

from pipeline.common.errors import UserError
from pipeline.growth.sources import open_source
from pipeline.recipe import Recipe
from pipeline.training.preparation.given_source import source_config


@pytest.fixture
def asked(tmp_path, tiny_model):
    """Return the configuration that a recipe on a saved source begins with."""

    def ask(family, model_class, pairs):
        config = tiny_model(family).config
        (model_class(config) if model_class else tiny_model(family)).save_pretrained(tmp_path)
        recipe = Recipe(
            run_dir="run",
            data={"shards": "data", "pairs": pairs},
            source={"path": str(tmp_path)},
            target={"hidden_size": 64},
            stages=[{"name": "all", "steps": 1}],
        )
        return source_config(recipe, open_source(tmp_path), 1, 0)

    return ask


@pytest.mark.parametrize(("model_class", "pairs"), [(BertForPreTraining, "sop"), (BertForMaskedLM, None)])
def test_a_source_goes_with_what_it_is_trained_on(asked, model_class, pairs):
    assert asked("bert", model_class, pairs).architectures == [model_class.__name__]


@pytest.mark.parametrize(
    ("family", "model_class", "pairs", "words"),
    [
        (
            "bert",
            BertForMaskedLM,
            "nsp",
            r"config\.json: architectures: a BertForMaskedLM has no .* name BertForPreTraining there",
        ),
        ("bert", BertForPreTraining, None, r"a BertForPreTraining has a head .* set that, or name BertForMaskedLM there"),
        ("gpt2", None, "nsp", r"data\.pairs: gpt2 has no head on sentence pairs; leave the key out"),
        ("roberta", None, "sop", r"data\.pairs: roberta has no head"),
    ],
)
def test_a_source_that_does_not_is_refused(asked, family, model_class, pairs, words):
    with pytest.raises(UserError, match=words):
        asked(family, model_class, pairs)
