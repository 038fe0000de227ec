import dataclasses
import re
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForPreTraining,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    MambaConfig,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
    StableLmConfig,
)

from pipeline.common.errors import UserError
from pipeline.families import FAMILIES, LAYER_LISTS, PAIR_FAMILIES, check_parameters, family_of, sizes_of
from pipeline.families.base import config_keys
from pipeline.growth.fused_parameters import parameters_of
from pipeline.growth.initialization import initialized
from pipeline.growth.sources import open_source
from tests.pipeline.growth import check


def test_a_tensor_that_the_table_does_not_know_is_an_error():
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=10, add_cross_attention=True)
    with pytest.raises(RuntimeError, match="crossattention"):
        check_parameters(FAMILIES["gpt2"], config)
    with pytest.raises(UserError, match="add_cross_attention"):
        family_of(config, "config.json")


@pytest.mark.parametrize("heads", [{"heads": 4, "kv_heads": 1}, {"heads": 2, "kv_heads": 2, "head_dim": 24}])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_the_table_holds_for_any_groups_and_head_dimension(family, heads, tiny_model):
    config = tiny_model(family, **heads).config
    check_parameters(FAMILIES[family], config)
    sizes = sizes_of(config)
    assert (sizes.num_key_value_heads, sizes.head_dim) == (heads["kv_heads"], heads.get("head_dim", 8))


def test_the_check_of_a_family_ends_in_a_sentence(capsys, monkeypatch):
    """It is what somebody runs whose graph is not right yet, or who does not know the name."""
    monkeypatch.setattr(sys, "argv", ["check", "olmo-2"])
    with pytest.raises(SystemExit):
        check.main()
    assert "no family 'olmo-2'; registry.py names gpt2, bert" in capsys.readouterr().err
    monkeypatch.setitem(FAMILIES, "llama", dataclasses.replace(FAMILIES["llama"], graph=FAMILIES["qwen2"].graph))
    monkeypatch.setattr(sys, "argv", ["check", "llama"])
    assert check.main() == 1
    output = capsys.readouterr().out
    assert (
        output.startswith("LlamaForCausalLM: tensor model.layers.0.self_attn.k_proj.bias is absent in the class")
        and output.count("\n") == 1
    )


def test_an_unknown_family_is_refused():
    with pytest.raises(UserError, match="'mamba' is not known; known are gpt2, bert, roberta, distilbert, modernbert, llama, "):
        family_of(MambaConfig(), "config.json")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (LlamaConfig(pretraining_tp=2), "pretraining_tp: 2"),
        (LlamaConfig(partial_rotary_factor=0.5), "rope_parameters.partial_rotary_factor: 0.5"),
        (StableLmConfig(qk_layernorm=True), "qk_layernorm: True is not supported; set it to False"),
        (RobertaConfig(is_decoder=True), "is_decoder: True"),
        (RobertaConfig(pad_token_id=0), "pad_token_id: 0 is not supported; set it to 1"),
    ],
)
def test_a_configuration_that_the_table_is_wrong_for_is_refused_by_key(config, words):
    with pytest.raises(UserError) as error:
        family_of(config, "config.json")
    assert f"config.json: {words}" in str(error.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_classs_own_default_configuration_is_known(family):
    assert family_of(FAMILIES[family].config_class(), "config.json") is FAMILIES[family]


def same_state(directory, expected):
    source = open_source(directory)
    for name, tensor in source.state.items():
        assert torch.equal(tensor.rows(0, tensor.shape[0]), expected[name]), name


def opens_as(model, tensors, directory):
    """Files with these tensors hold the parameters of the model."""
    save_file({name: tensor.detach().clone() for name, tensor in tensors.items()}, directory / "model.safetensors")
    model.config.save_pretrained(directory)
    same_state(directory, dict(model.named_parameters()))


def test_the_published_gpt2_layout_loads(tmp_path):
    """No `transformer.` prefix, the causal mask among the weights, no lm_head."""
    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=10, n_positions=8))
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in model.named_parameters()}
    mask = torch.tril(torch.ones(8, 8)).view(1, 1, 8, 8)
    opens_as(model, tensors | {f"h.{layer}.attn.bias": mask for layer in range(2)}, tmp_path)


def named_as_before(model):
    """Its parameters, LayerNorm.weight and bias as gamma and beta."""
    words = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    return {re.sub("|".join(words), lambda found: words[found[0]], name): one for name, one in model.named_parameters()}


ENCODER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 10}


def test_the_published_bert_layout_loads(tmp_path):
    """LayerNorm.gamma and beta, the pooler, the next-sentence head, the tied decoder spelled out."""
    model = BertForPreTraining(BertConfig(**ENCODER))
    tensors = named_as_before(model)
    assert any("pooler" in name for name in tensors) and any("seq_relationship" in name for name in tensors)
    decoder = {"cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"]}
    opens_as(model, tensors | decoder | {"bert.embeddings.position_ids": torch.arange(512)[None]}, tmp_path)


def test_the_published_roberta_layout_loads(tmp_path):
    """The pooler, position_ids, the tied decoder spelled out, LayerNorm.gamma and beta."""
    config = RobertaConfig(**ENCODER)
    model = RobertaForMaskedLM(config)
    pooler = {f"roberta.{name}": p for name, p in RobertaModel(config).named_parameters() if name.startswith("pooler.")}
    assert pooler
    decoder = {"lm_head.decoder.weight": model.lm_head.decoder.weight, "lm_head.decoder.bias": model.lm_head.bias}
    positions = {"roberta.embeddings.position_ids": torch.arange(512)[None]}
    opens_as(model, pooler | named_as_before(model) | decoder | positions, tmp_path)


@pytest.mark.parametrize("prefix", ["model.", ""])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_published_decoder_layouts_load(family, prefix, tiny_model, tmp_path):
    """Saved from the base model, without the prefix; older files hold each layer's rotary frequencies."""
    model = tiny_model(family)
    tensors = {prefix + name.removeprefix("model."): tensor for name, tensor in model.named_parameters()}
    frequencies = {f"{prefix}layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(4) for layer in range(3)}
    opens_as(model, tensors | frequencies, tmp_path)


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
        (lambda d: (d / "config.json").write_text('{"model_type": "bloom"}'), "'bloom' is not known"),
        (lambda d: (d / "config.json").write_text("{"), "config.json: not readable as JSON"),
        (lambda d: (d / "model.safetensors").write_bytes(b"x" * 100), "damaged safetensors"),
        (lambda d: rewrite(d, lambda t: t.pop(NORM)), f"tensor '{NORM}' is missing"),
        (lambda d: rewrite(d, lambda t: t.update({NORM: torch.ones(31)})), f"'{NORM}' has shape (31,)"),
        (lambda d: rewrite(d, lambda t: t.update({"bert.adapter.weight": torch.ones(3)})), "'bert.adapter.weight' is unknown"),
    ],
)
def test_a_spoiled_source_directory_is_refused_by_file_or_tensor(saved, spoil, words):
    spoil(saved)
    with pytest.raises(UserError, match=re.escape(words)):
        open_source(saved)


@pytest.mark.parametrize("family", [*FAMILIES.values(), PAIR_FAMILIES["bert"]], ids=lambda family: family.model_class.__name__)
def test_fresh_weights_have_the_deviations_of_the_hugging_face_class(family, tiny_model):
    config = tiny_model(family.name, hidden=64, vocab=400).config
    torch.manual_seed(0)
    theirs = family.model_class(config)
    ours = parameters_of(family.graph(config), initialized(family, config, seed=3))
    for name, parameter in theirs.named_parameters():
        tensor = ours[name]
        mine = tensor.rows(0, tensor.shape[0])
        assert mine.shape == parameter.shape
        # The deviation of n normal draws is known to 1 / sqrt(2 n): both sides vary, six deviations are allowed.
        slack = 6 / (2 * parameter.numel()) ** 0.5 * parameter.std().item() * 2**0.5
        assert abs(mine.std().item() - parameter.std().item()) <= slack, name
        assert abs(mine.mean().item() - parameter.mean().item()) <= 0.02, name


INERT = {
    *("architectures", "model_type", "tie_word_embeddings", "initializer_range", "use_cache", "is_encoder_decoder"),
    *("dtype", "transformers_version", "classifier_dropout", "max_window_layers", "no_rope_layer_interval"),
    *("attribute_map", "base_config_key", "extra_config_files", "extra_files", "sub_configs_defaults"),
    *("id2label", "label2id", "num_labels", "problem_type", "return_dict", "output_hidden_states", "output_attentions"),
    *("chunk_size_feed_forward", "is_decoder", "initializer_cutoff_factor", "initializer_factor", "deterministic_flash_attn"),
    "pretraining_tp",
    # Of other heads, and of a loss that the class itself computes.
    *("output_router_logits", "router_aux_loss_coef", "decoder_sparse_step"),
    *("qa_dropout", "seq_classif_dropout", "classifier_pooling", "sparse_prediction", "sparse_pred_ignore_index"),
}
"""Keys that say nothing of what the language model computes, or something that growth checks by itself."""


@pytest.mark.parametrize("name", FAMILIES)
def test_every_key_of_a_familys_class_may_grow_stays_or_is_refused(name):
    """A key that no one looks at could differ in a target's file, and a growth be called exact that is not."""
    family = FAMILIES[name]
    config = family.config_class()
    known = {*family.kept, *family.dropout, *LAYER_LISTS, *(key.split(".")[0] for key in family.refused)}
    known |= config_keys(family, sizes_of(config), config).keys() | {key for variant in family.variants for key in variant}
    known |= {config.attribute_map.get(key, key) for key in known} | INERT
    unknown = {
        key
        for key in family.config_class.__dataclass_fields__
        if not key.startswith(("base_model_", "summary_", "_")) and not key.endswith("token_id")
    }
    assert unknown - known == set()
