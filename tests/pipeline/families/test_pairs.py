"""BERT with its head on sentence pairs: how it differs from BERT without, what of it is stored, what may grow into what."""

import copy
import json

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining

from pipeline.common.errors import UserError
from pipeline.families import FAMILIES, PAIR_FAMILIES, check_growth, check_parameters, family_of, scratch_config, target_config
from pipeline.growth import probe as probing
from pipeline.growth.huggingface import open_huggingface
from pipeline.growth.huggingface_sink import write_huggingface
from pipeline.growth.plan import plan_growth
from pipeline.growth.probe import compare
from pipeline.growth.sources import open_source
from pipeline.growth.zero_files import write_zero3
from pipeline.recipe import GrowthConfig, ModelConfig, TargetConfig

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 30}


def saved(directory, model_class=BertForPreTraining, **changes):
    torch.manual_seed(2)
    model = model_class(BertConfig(**{**SIZES, **changes}, max_position_embeddings=24, initializer_range=0.3)).double()
    model.save_pretrained(directory)
    return model.eval()


@pytest.mark.parametrize("tied", [True, False])
def test_the_table_is_the_hugging_face_classs_parameter_list(tied):
    check_parameters(PAIR_FAMILIES["bert"], BertConfig(**SIZES, tie_word_embeddings=tied))


@pytest.mark.parametrize(
    ("architectures", "paired"),
    [(["BertForPreTraining"], True), (["BertForMaskedLM"], False), (["BertModel"], False), (None, False)],
)
def test_a_configuration_says_by_its_class_whether_it_has_the_head(architectures, paired):
    config = BertConfig(**SIZES, architectures=architectures)
    assert family_of(config) is (PAIR_FAMILIES if paired else FAMILIES)["bert"]


def test_a_published_bert_is_opened_with_or_without_its_pair_head(tmp_path):
    """bert-base-uncased holds a pooler and a next-sentence head, and calls itself BertForMaskedLM."""
    model = saved(tmp_path)
    with_head = open_source(tmp_path)
    assert with_head.state.keys() == dict(model.named_parameters()).keys()
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"architectures": ["BertForMaskedLM"]}))
    without = open_source(tmp_path)
    assert with_head.state.keys() - without.state.keys() == {
        f"{name}.{kind}" for name in ("bert.pooler.dense", "cls.seq_relationship") for kind in ("weight", "bias")
    }


def test_weights_without_the_head_that_the_configuration_names_are_refused(tmp_path):
    saved(tmp_path, BertForMaskedLM)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"architectures": ["BertForPreTraining"]}))
    with pytest.raises(UserError, match=r"'bert.pooler.dense.weight' is missing .* or name its own class in config.json"):
        open_source(tmp_path)


def test_the_head_learns_with_the_head():
    paired, plain = (families["bert"].graph(BertConfig(**SIZES)).tensors() for families in (PAIR_FAMILIES, FAMILIES))
    blocks = {name: paired[name].group for name in paired.keys() - plain.keys()}
    modules = ("bert.pooler.dense", "cls.seq_relationship")
    assert blocks == {f"{module}.{kind}": "head" for module in modules for kind in ("weight", "bias")}


def test_a_model_from_scratch_has_the_head_where_pairs_are_asked_for(tmp_path):
    described = ModelConfig(family="bert", hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
    config = scratch_config(described, 20, 2, 9, pairs=True)
    config.save_pretrained(tmp_path)
    assert family_of(BertConfig.from_pretrained(tmp_path)) is PAIR_FAMILIES["bert"]
    assert family_of(scratch_config(described, 20, 2, 9)) is FAMILIES["bert"]
    with pytest.raises(UserError, match=r"data\.pairs: roberta has no head on sentence pairs; use bert"):
        scratch_config(described.model_copy(update={"family": "roberta"}), 20, 2, 9, pairs=True)


@pytest.mark.parametrize("source", ["BertForMaskedLM", "BertForPreTraining"])
def test_growth_neither_adds_the_head_nor_drops_it(source):
    small = BertConfig(**SIZES, architectures=[source])
    other = {"BertForMaskedLM": "BertForPreTraining", "BertForPreTraining": "BertForMaskedLM"}[source]
    large = BertConfig(**{**SIZES, "hidden_size": 32, "num_attention_heads": 4}, architectures=[other])
    with pytest.raises(UserError, match=rf"t\.json: architectures: \['{other}'\] is not the source's {source}"):
        check_growth(small, large, "t.json: ")
    assert family_of(target_config(small, TargetConfig(hidden_size=32))) is family_of(small)


@pytest.fixture
def grown(tmp_path):
    saved(tmp_path / "source")
    source = open_huggingface(tmp_path / "source")
    config = target_config(source.config, TargetConfig(hidden_size=32))
    return source, config, plan_growth(source.config, config, GrowthConfig(width="fpi", depth="stack"), 0)


def test_an_exact_growth_keeps_both_logits_and_a_moved_pair_logit_is_seen(grown, monkeypatch):
    source, config, plan = grown
    # Float64 logits of order 1.
    assert compare(source, plan, config)["max_logit_difference"] < 1e-12
    outputs = probing._Model.outputs

    def moved(model, *arguments, **options):
        found = outputs(model, *arguments, **options)
        found["seq_relationship_logits"] += 0.5 * model.grown
        return found

    monkeypatch.setattr(probing._Model, "outputs", moved)
    assert compare(source, plan, config)["max_logit_difference"] == pytest.approx(0.5)


def test_a_grown_directory_loads_into_the_class_and_gives_the_sources_logits(grown, tmp_path):
    source, config, plan = grown
    (tmp_path / "hf").mkdir()
    write_huggingface(tmp_path / "hf", config, plan.grow(source.state, torch.float64), torch.float64)
    models = []
    for directory in (tmp_path / "source", tmp_path / "hf"):
        model, info = BertForPreTraining.from_pretrained(directory, dtype="auto", output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        models.append(model.eval())
    ids, types = torch.arange(20).reshape(2, 10), torch.tensor([[0] * 5 + [1] * 5] * 2)
    mask = torch.tensor([[1] * 10, [1] * 7 + [0] * 3])
    with torch.no_grad():
        before, after = (model(input_ids=ids, token_type_ids=types, attention_mask=mask) for model in models)
    assert (before.seq_relationship_logits - after.seq_relationship_logits).abs().max() < 1e-12
    assert (before.prediction_logits - after.prediction_logits)[mask == 1].abs().max() < 1e-12


def test_a_zero_checkpoint_keeps_the_head(grown, tmp_path):
    source, config, plan = grown
    (tmp_path / "zero").mkdir()
    state = plan.grow(source.state)
    write_zero3(tmp_path / "zero", copy.deepcopy(config), state, 2, dtype=torch.float32, optimizer=None)
    opened = open_source(tmp_path / "zero")
    assert opened.family is PAIR_FAMILIES["bert"]
    for name in ("bert.pooler.dense.weight", "cls.seq_relationship.weight"):
        rows = state[name].shape[0]
        assert torch.equal(opened.state[name].rows(0, rows), state[name].rows(0, rows).float())
