"""Any config.json is a sentence or a model that the stock class builds and runs, whatever its keys hold."""

import json
from functools import cache

import pytest
import torch
from transformers import AutoConfig

from pipeline.common.errors import UserError
from pipeline.families import FAMILIES, family_of, has_key, read_config, scratch_config, sizes_of
from pipeline.growth.listing import listing
from pipeline.recipe import ModelConfig
from tests.pipeline.families.grown import offline
from tests.pipeline.growth import check

WRONG = [None, "abc", -1, 0, 3, 1.5, True, [], {"a": 1}, 10**20, float("nan")]
"""Other types, and values that no model has."""

OTHER_KEYS = (
    "architectures attn_implementation attribute_map chunk_size_feed_forward dtype head_dim id2label intermediate_size "
    "layer_types n_inner num_key_value_heads num_labels output_attentions output_hidden_states per_layer_config "
    "position_embedding_type pruned_heads quantization_config return_dict rope_scaling rope_theta to_dict torch_dtype "
    "use_return_dict"
).split()
"""Keys of older versions, of other families and of nothing at all."""


@pytest.fixture
def read(tmp_path):
    """Read a configuration that is written down first; None where it was refused, in a sentence that begins with the file."""

    def attempt(content):
        path = tmp_path / "config.json"
        path.write_text(json.dumps(content))
        try:
            return read_config(path)
        except UserError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error), error
            return None

    return attempt


def base_of(family, **changes):
    """A whole file, of heads of 8 channels, two to a key-value head where they are grouped."""
    if not FAMILIES[family].trained or has_key(FAMILIES[family].config_class, "num_experts"):
        sizes = {"hidden_size": 32, "head_dim": 8, FAMILIES[family].intermediate_key: 64, "vocab_size": 50}
        return json.loads(check.small_config(FAMILIES[family], **sizes).to_json_string(use_diff=False)) | changes
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    described = ModelConfig(family=family, num_key_value_heads=2 if FAMILIES[family].grouped else None, **sizes)
    config = scratch_config(described, vocab_size=50, eos_id=0, sequence_length=16)
    return json.loads(config.to_json_string(use_diff=False)) | changes


def runs(config):
    """Whether the stock class builds a model and gives logits, where it is small enough to try."""
    family, sizes = family_of(config), sizes_of(config)
    # Grouped products ask for rows of whole 16 bytes.
    config._experts_implementation = "eager"
    # Whatever it counts, heads or a layer's units too: one key alone makes gigabytes.
    if max(value for value in vars(config).values() if isinstance(value, int)) > 5_000:
        with torch.device("meta"):
            family.model(config)
        return True
    inputs = family.inputs(torch.zeros(1, min(3, family.usable_positions(sizes) or 3), dtype=torch.int64))
    with torch.no_grad():
        return family.model(config).eval()(**inputs).logits.shape[-1] == config.vocab_size


@cache
def families_with(key):
    """The families whose files have a key; all of them for a key of none."""
    return [family for family in FAMILIES if key in base_of(family)] or list(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_key_with_any_value_is_refused_or_makes_a_model_that_runs(family, read):
    base, accepted = base_of(family), 0
    for number, key in enumerate(sorted({*base, *OTHER_KEYS})):
        # A share of the values for each key, and another one in each family that has it: together all of them. What a single
        # family has meets every value there.
        tried = families_with(key)
        share = min(len(tried), len(WRONG))
        place = tried.index(family) if family in tried else 0
        for value in WRONG[(number + place) % share :: share]:
            config = read(base | {key: value})
            if config is not None:
                accepted += 1
                assert runs(config), (key, value)
        # Mistral's 8 key-value heads do not divide 4 query heads, nor Qwen's 32, and the class does not take three layer_types
        # for the 32 layers that it has where none are named; what fits is read as the class reads it.
        left = {name: held for name, held in base.items() if name != key}
        config = read(left) if key in base else None
        if config is not None:
            assert runs(config), key
            assert sizes_of(config) == sizes_of(AutoConfig.for_model(**left)), key
    # Keys that say nothing of the model take anything.
    assert accepted > 15


ROPE = {
    "rope_theta": 1e4,
    "factor": 2.0,
    "original_max_position_embeddings": 8,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}


@pytest.mark.parametrize(
    "kind", ["default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional", "su", "mrope", "", None, 3]
)
def test_rotary_positions_are_refused_or_make_a_model_that_runs(kind, read):
    rope = ROPE | {"rope_type": kind, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    known = kind in ("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional")
    assert (read(base_of("llama", rope_parameters=rope)) is not None) is known
    for key in (*rope, "partial_rotary_factor", "beta_fast", "attention_factor", "full_attention"):
        for value in (None, "abc", 0, -2.0, True, [1.0] * 3, {"a": 1}):
            config = read(base_of("llama", rope_parameters=rope | {key: value}))
            assert config is None or runs(config), (key, value)


PLAIN = {"rope_theta": 1e4, "rope_type": "default"}
YARN = {"rope_theta": 1e4, "rope_type": "yarn", "factor": 2.0}
BOTH = ["sliding_attention", "full_attention", "full_attention"]


@pytest.mark.parametrize("family", ["gemma3_text", "olmo3"])
def test_rotary_positions_of_each_type_of_layer_are_refused_or_make_a_model_that_runs(family, read):
    for full in (YARN, PLAIN, {}, None, 3, YARN | {"factor": None}, YARN | {"rope_type": "su"}, YARN | {"factor": [2.0]}):
        rope = {"full_attention": full, "sliding_attention": PLAIN}
        config = read(base_of(family, layer_types=BOTH, rope_parameters=rope))
        assert config is not None or full not in (YARN, PLAIN), full
        assert config is None or runs(config)
    for rope in (PLAIN, {"full_attention": YARN}, {"other": PLAIN}, {"full_attention": PLAIN, "rope_theta": 3.0}):
        config = read(base_of(family, layer_types=BOTH, rope_parameters=rope))
        assert config is None or runs(config), rope


@pytest.mark.parametrize("family", ["phi3", "stablelm", "gpt_neox"])
@pytest.mark.parametrize("share", [0.5, 1.0, None, 0, 0.01, 0.3, 1.5, -2.0, True, "abc", [1.0] * 3, {"a": 1}, float("inf")])
def test_a_share_of_a_head_that_positions_turn_is_refused_or_makes_a_model_that_runs(family, share, read):
    config = read(base_of(family, rope_parameters=PLAIN | {"partial_rotary_factor": share}))
    assert config is not None or share is True or share not in (0.5, 1.0)
    assert config is None or runs(config)


@pytest.mark.parametrize(
    ("family", "changes", "says"),
    [
        ("mistral", {"num_key_value_heads": 0}, "num_key_value_heads: a whole number from 1 to 67108864 is expected, and the "
         "value is 0"),
        ("llama", {"num_key_value_heads": 0}, "num_key_value_heads: a whole number from 1"),
        ("mistral", {"num_key_value_heads": 3}, "num_key_value_heads: 3 does not divide num_attention_heads 4"),
        ("llama", {"rope_scaling": {"type": "su", "factor": 2.0}, "rope_parameters": None},
         "rope_parameters.rope_type: one of default, "),
        ("gpt2", {"n_head": 0}, "n_head: a whole number from 1"),
        ("gpt2", {"n_embd": 33}, "num_attention_heads: 4 heads of 8 channels do not make up hidden_size 33"),
        ("gpt2", {"n_layer": -1}, "n_layer: a whole number from 1"),
        ("gpt2", {"n_inner": 0}, "n_inner: a whole number from 1"),
        ("gpt2", {"activation_function": "gelu_old"}, "activation_function: an activation that transformers knows"),
        ("bert", {"hidden_act": "swishy"}, "hidden_act: an activation that transformers knows"),
        ("bert", {"layer_norm_eps": -1.0}, "layer_norm_eps: a number from 0"),
        ("bert", {"hidden_dropout_prob": 1.5}, "hidden_dropout_prob: a number from 0 to 1"),
        ("bert", {"type_vocab_size": 0}, "type_vocab_size: a whole number from 1"),
        ("bert", {"pad_token_id": 99}, "BertConfig's model cannot be built from it"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type: 'relative_key' is not supported"),
        ("bert", {"pruned_heads": {"1": [0]}}, "pruned_heads: "),
        ("roberta", {"max_position_embeddings": 2}, "max_position_embeddings: 2 leaves no position to read"),
        ("qwen3", {"head_dim": 7}, "head_dim"),
        ("qwen3", {"layer_types": ["full_attention"]}, "layer_types"),
        ("qwen3", {"layer_types": ["linear_attention"] * 3}, "layer_types: a list of 3 entries, each full_attention or"),
        ("qwen3", {"layer_types": ["sliding_attention"] * 3}, "sliding_window: a whole number, since layer_types names"),
        ("mistral", {"sliding_window": 0}, "sliding_window: null or a whole number from 1"),
        ("qwen2", {"head_dim": None}, "head_dim: a whole number from 1"),
        ("cohere", {"logit_scale": None}, "logit_scale: a number from 1.5e-08 to 67108864"),
        ("granite", {"logits_scaling": 10**20}, "logits_scaling: a number from"),
        ("granite", {"residual_multiplier": 0.0}, "residual_multiplier: a number from"),
        ("gemma3_text", {"query_pre_attn_scalar": -1}, "query_pre_attn_scalar: a number from"),
        ("gemma2", {"final_logit_softcapping": 0.0}, "final_logit_softcapping: null or a number from"),
        ("gemma2", {"hidden_activation": "swishy"}, "hidden_activation: an activation that transformers knows"),
        ("starcoder2", {"norm_epsilon": -1.0}, "norm_epsilon: a number from 0"),
        ("stablelm", {"rope_parameters": PLAIN | {"partial_rotary_factor": [1.0]}},
         "rope_parameters.partial_rotary_factor: a number"),
        ("gpt_neox", {"rope_parameters": {"full_attention": PLAIN}}, "rope_parameters.full_attention: a number"),
        ("olmo3", {"layer_types": BOTH, "rope_parameters":
            {"full_attention": PLAIN | {"partial_rotary_factor": 0.5}, "sliding_attention": PLAIN}},
         "rope_parameters.full_attention.partial_rotary_factor: 0.5 is not supported"),
        ("gemma3_text", {"layer_types": BOTH, "rope_parameters":
            {"full_attention": YARN | {"rope_type": "su"}, "sliding_attention": PLAIN}},
         "rope_parameters.full_attention.rope_type: one of default, "),
        ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers: a list of 3 entries, each 0 or 1,"),
        ("smollm3", {"no_rope_layers": [1] * 5}, "no_rope_layers: a list of 3 entries, each 0 or 1,"),
        ("smollm3", {"no_rope_layers": [2] * 3}, "no_rope_layers: a list of 3 entries, each 0 or 1,"),
        ("phi3", {"rope_parameters": PLAIN | {"partial_rotary_factor": 1.5}},
         "rope_parameters.partial_rotary_factor: a number up to 1"),
        ("llama", {"num_hidden_layers": 10**12}, "num_hidden_layers: 1000000000000 is more than the 10000"),
        ("modernbert", {"local_attention": 0}, "local_attention: a whole number"),
        ("modernbert", {"head_dim": 8}, "head_dim: 8 is not supported"),
        ("modernbert", {"initializer_cutoff_factor": 0.0}, "initializer_cutoff_factor: a number from"),
        ("modernbert", {"layer_types": ["full_attention"]}, "the number of `layer_types` (1)"),
        ("distilbert", {"sinusoidal_pos_embds": True}, "sinusoidal_pos_embds: True is not supported"),
        ("distilbert", {"activation": "gleu"}, "activation: an activation that transformers knows"),
        ("distilbert", {"hidden_dim": 0}, "hidden_dim: a whole number from 1"),
        ("distilbert", {"dim": -4}, "dim: a whole number from 1"),
        ("deepseek_v3", {"n_group": 3}, "n_group: a number of equal groups of at least two of the 4 experts"),
        ("deepseek_v3", {"n_group": None}, "n_group: a whole number from 1 to"),
        ("deepseek_v3", {"topk_group": 3}, "topk_group: a number up to n_group 2"),
        ("deepseek_v3", {"num_experts_per_tok": 3}, "num_experts_per_tok: a number up to the 2 experts of topk_group 1 groups"),
        ("deepseek_v3", {"num_key_value_heads": 2}, "num_key_value_heads: deepseek_v3 has as many as num_attention_heads, 4"),
        ("deepseek_v3", {"head_dim": 24}, "head_dim: qk_rope_head_dim 8, as the class takes it, is expected"),
        ("deepseek_v3", {"kv_lora_rank": 0}, "kv_lora_rank: a whole number"),
        ("deepseek_v3", {"first_k_dense_replace": None}, "first_k_dense_replace: a whole number from 0"),
        ("deepseek_v3", {"first_k_dense_replace": -1}, "first_k_dense_replace: a whole number from 0"),
        ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func: 'softmax' is not supported; set it to 'sigmoid'"),
        ("llama", {"architectures": "LlamaForCausalLM"}, "architectures: a list of class names is expected"),
        ("llama", {"quantization_config": "gptq"}, "quantization_config: a mapping is expected"),
    ],
)  # fmt: skip
def test_the_key_that_is_wrong_is_named(tmp_path, family, changes, says):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(base_of(family, **changes)))
    with pytest.raises(UserError) as refused:
        read_config(path)
    assert str(refused.value).startswith(f"{path}: ") and says in str(refused.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_of_other_families_change_no_size(family, read):
    """transformers does not look at them either; Qwen2's class reads head_dim, though it has no such key."""
    base, stray = base_of(family), {"type_vocab_size": 5, "n_inner": 7, "intermediate_size": 9, "num_key_value_heads": 1}
    stray = {key: value for key, value in stray.items() if key not in base}
    assert stray
    assert sizes_of(read(base | stray)).intermediate_size == 64
    assert runs(read(base | stray))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_dry_run_of_a_configuration_alone_says_what_the_class_would_have(tmp_path, family):
    (tmp_path / "config.json").write_text(json.dumps(base_of(family)))
    growth = offline(tmp_path, {"num_hidden_layers": 5}, {"width": "fpi", "depth": "stack"}, preview=True)
    assert "function: inexact by design" in listing(growth)
