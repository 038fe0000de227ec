import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForPreTraining, GPT2Config, GPT2LMHeadModel, LlamaConfig

from data_prep.errors import UserError
from pipeline.families import FAMILIES, check_parameters, family_of, sizes_of, target_config
from pipeline.growth.initialization import initialized
from pipeline.growth.sources import open_source
from pipeline.recipe import TargetConfig


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_is_the_hugging_face_classs_parameter_list(family, tied, tiny_model):
    check_parameters(FAMILIES[family], tiny_model(family, tied=tied).config)


def test_a_tensor_that_the_table_does_not_know_is_an_error():
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=10, add_cross_attention=True)
    with pytest.raises(RuntimeError, match="crossattention"):
        check_parameters(FAMILIES["gpt2"], config)
    with pytest.raises(UserError, match="add_cross_attention"):
        family_of(config, "config.json")


def test_an_unknown_family_is_refused():
    with pytest.raises(UserError, match="'llama' is not known; known are gpt2, bert"):
        family_of(LlamaConfig(), "config.json")


def same_state(directory, expected):
    source = open_source(directory)
    for name, tensor in source.state.items():
        assert torch.equal(tensor.rows(0, tensor.shape[0]), expected[name]), name


def test_the_published_gpt2_layout_loads(tmp_path):
    """No `transformer.` prefix, the causal mask among the weights, no lm_head."""
    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=10, n_positions=8))
    tensors = {name.removeprefix("transformer."): tensor.clone() for name, tensor in model.named_parameters()}
    for layer in range(2):
        tensors[f"h.{layer}.attn.bias"] = torch.tril(torch.ones(8, 8)).view(1, 1, 8, 8)
    save_file(tensors, tmp_path / "model.safetensors")
    model.config.save_pretrained(tmp_path)
    same_state(tmp_path, dict(model.named_parameters()))


def test_the_published_bert_layout_loads(tmp_path):
    """LayerNorm.gamma and beta, the pooler, the next-sentence head, the tied decoder spelled out."""
    config = BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=10)
    model = BertForPreTraining(config)
    tensors = {}
    for name, tensor in model.named_parameters():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        tensors[name] = tensor.detach().clone()
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
    tensors["bert.embeddings.position_ids"] = torch.arange(512)[None]
    assert any("pooler" in name for name in tensors) and any("seq_relationship" in name for name in tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    config.save_pretrained(tmp_path)
    same_state(tmp_path, dict(model.named_parameters()))


def test_a_sharded_directory_and_bf16_weights_load(tmp_path, tiny_model):
    model = tiny_model("gpt2").to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    same_state(tmp_path, {name: p.float() for name, p in model.named_parameters()})


@pytest.fixture
def saved(tmp_path, tiny_model):
    tiny_model("bert").save_pretrained(tmp_path)
    return tmp_path


def rewrite(directory, change):
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


NORM = "bert.encoder.layer.1.output.LayerNorm.weight"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: (d / "model.safetensors").unlink(), "model.safetensors: no such file"),
        (lambda d: (d / "config.json").unlink(), "config.json: no such file"),
        (lambda d: (d / "config.json").write_text("{"), "config.json: not readable as JSON"),
        (lambda d: (d / "model.safetensors").write_bytes(b"x" * 100), "damaged safetensors"),
        (lambda d: rewrite(d, lambda t: t.pop(NORM)), f"tensor '{NORM}' is missing"),
        (lambda d: rewrite(d, lambda t: t.update({NORM: torch.ones(31)})), f"'{NORM}' has shape (31,)"),
        (lambda d: rewrite(d, lambda t: t.update({"bert.adapter.weight": torch.ones(3)})), "'bert.adapter.weight' is unknown"),
    ],
)
def test_a_spoiled_source_directory_is_refused_by_file_or_tensor(saved, spoil, words):
    spoil(saved)
    with pytest.raises(UserError) as error:
        open_source(saved)
    assert words in str(error.value)


def test_a_directory_of_an_unknown_family_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(UserError, match="'t5' is not known"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"hidden_size": 24}, "target.hidden_size: 24 is smaller than the source's 32"),
        ({"num_hidden_layers": 2}, "target.num_hidden_layers: 2 is smaller"),
        ({"intermediate_size": 100}, "target.intermediate_size: 100 is smaller"),
        ({"hidden_size": 44}, "do not keep the source's head dimension 8"),
        ({"hidden_size": 64, "num_attention_heads": 6}, "do not keep the source's head dimension 8"),
    ],
)
def test_an_impossible_target_is_refused_by_key(tiny_model, target, words):
    with pytest.raises(UserError) as error:
        target_config(tiny_model("gpt2").config, TargetConfig(**target))
    assert words in str(error.value)


def test_sizes_that_a_target_leaves_out_follow_the_source(tiny_model):
    for family in FAMILIES:
        sizes = sizes_of(target_config(tiny_model(family).config, TargetConfig(hidden_size=48)))
        assert (sizes.num_attention_heads, sizes.intermediate_size, sizes.num_hidden_layers) == (6, 192, 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_targets_dropout_is_the_recipes_not_the_sources(family):
    source = FAMILIES[family].config_class()
    keys = FAMILIES[family].dropout
    assert all(getattr(source, key) == 0.1 for key in keys)
    for wanted in (0.0, 0.2):
        grown = target_config(source, TargetConfig(dropout=wanted))
        assert [getattr(grown, key) for key in keys] == [wanted] * len(keys)


@pytest.mark.parametrize("family", FAMILIES)
def test_fresh_weights_have_the_deviations_of_the_hugging_face_class(family, tiny_model):
    config = tiny_model(family, hidden=64, vocab=400).config
    torch.manual_seed(0)
    theirs = FAMILIES[family].model_class(config)
    ours = initialized(FAMILIES[family], config, seed=3)
    for name, parameter in theirs.named_parameters():
        tensor = ours[name]
        mine = tensor.rows(0, tensor.shape[0])
        assert mine.shape == parameter.shape
        # The deviation of n normal draws is known to 1 / sqrt(2 n): both sides vary, six deviations are allowed.
        slack = 6 / (2 * parameter.numel()) ** 0.5 * parameter.std().item() * 2**0.5
        assert abs(mine.std().item() - parameter.std().item()) <= slack, name
        assert abs(mine.mean().item() - parameter.mean().item()) <= 0.02, name
