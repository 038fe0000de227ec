"""Tokenizers held against the models that they are to go with."""

import functools
import re

import pytest
from transformers import AutoTokenizer

from data_prep.settings import TokenizerConfig
from data_prep.tokenizers.loading import load_tokenizer
from data_prep.tokenizers.training import train_tokenizer
from pipeline.common.errors import UserError
from pipeline.families import FAMILIES, TRAINED
from pipeline.flops.ledger import Ledger
from pipeline.growth.huggingface import open_huggingface
from pipeline.growth.tokenizer_beside import check_beside
from pipeline.training.preparation.text import check_source, check_training
from pipeline.training.run.finish import export
from tests.data_prep.prose import made_up_texts
from tests.data_prep.tokenizers.forms import FORMS, TEXTS, write
from tests.pipeline.growth.check import small_config
from tests.pipeline.growth.models import small_model

_OWN = [name for name, form in FORMS.items() if "slow" in name and "class alone" in name]
_UNIGRAM = {"algorithm": "sentencepiece_unigram"}
_QWEN = {"algorithm": "byte_level_bpe", "family": "qwen2"}


@pytest.mark.parametrize("name", _OWN)
def test_a_tokenizer_goes_with_its_own_family_and_ids_differ_where_transformers_would_rebuild_it(tmp_path, name):
    tokenizer = load_tokenizer(FORMS[name].write(tmp_path))
    check_beside(tokenizer, small_model(name.split()[0]).config)
    if not name.startswith("qwen"):
        with pytest.raises(UserError, match=r"gives other ids where this lies beside a qwen2 model .*choose a"):
            check_beside(tokenizer, small_model("qwen2").config)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the tokenizer that is trained by a configuration, each once."""

    @functools.cache
    def train(config: TokenizerConfig):
        directory = tmp_path_factory.mktemp("trained")
        train_tokenizer(made_up_texts(120), config, directory)
        return load_tokenizer(directory)

    return train


@pytest.mark.parametrize("family", TRAINED)
@pytest.mark.parametrize(
    "settings", [{"algorithm": "sentencepiece_bpe"}, _UNIGRAM, _QWEN, {"algorithm": "wordpiece", "family": "bert"}]
)
def test_a_tokenizer_is_trained_for_the_models_beside_which_autotokenizer_gives_its_ids(trained, settings, family):
    config = TokenizerConfig(vocab_size=500, **settings)
    tokenizer = trained(config)
    try:
        check_training(config, FAMILIES[family])
    except UserError as error:
        assert re.search("AutoTokenizer makes (another|a qwen2) tokenizer of", str(error))
        with pytest.raises(UserError, match="gives other ids where this lies beside a"):
            check_beside(tokenizer, small_config(FAMILIES[family]))
    else:
        check_beside(tokenizer, small_config(FAMILIES[family]))


def test_a_source_with_another_tokenizer_is_refused_by_both_names(tmp_path):
    small_model("gpt2").save_pretrained(tmp_path / "source")
    tokenizer = load_tokenizer(FORMS["gpt2 slow"].write(tmp_path / "one"))
    source = open_huggingface(tmp_path / "source")
    check_source(source, tokenizer)
    write(tmp_path / "source", {key: value for key, value in FORMS["gpt2 slow"].files().items() if key != "config.json"})
    check_source(source, tokenizer)
    other = load_tokenizer(FORMS["gpt2 slow, prefix"].write(tmp_path / "other"))
    with pytest.raises(UserError, match=r"source/vocab.json: gives other ids than .*other/vocab.json.*own tokenizer"):
        check_source(source, other)


@pytest.mark.parametrize("name", ["gpt2 slow", "bert slow, cased", "roberta bare", "llama slow, legacy", "qwen2 slow"])
def test_beside_an_exported_model_autotokenizer_gives_the_ids_of_the_shards(tmp_path, name):
    form = FORMS[name]
    given = form.write(tmp_path / "given")
    named = {} if form.type is None else {"tokenizer_type": form.type}
    call = {"add_special_tokens": False, "split_special_tokens": True}
    expected = AutoTokenizer.from_pretrained(given, **named)(TEXTS, **call)["input_ids"]
    small_model(name.split()[0]).save_pretrained(tmp_path / "source")
    # As a prepared folder holds it.
    load_tokenizer(given).write(write(tmp_path / "prepared", {}))
    export(open_huggingface(tmp_path / "source"), tmp_path / "model", load_tokenizer(tmp_path / "prepared"), Ledger(), "card")
    exported = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert exported(TEXTS, **call)["input_ids"] == expected
    assert load_tokenizer(tmp_path / "model").encode_batch(TEXTS) == expected
