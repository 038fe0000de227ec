"""What a target's sizes become where the recipe leaves them out, and which targets are refused."""

import copy
import re

import pytest
from transformers import (
    AutoConfig,
    BertConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    SmolLM3Config,
)

from pipeline.common.errors import UserError
from pipeline.families import FAMILIES, check_growth, check_parameters, derived_sizes, sizes_of, target_config
from pipeline.growth.plan import plan_growth
from pipeline.recipe import GrowthConfig, TargetConfig

# 8 query heads of 8 channels, 4 key-value heads.
GROUPED = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 50,
    "max_position_embeddings": 32,
}


def grown(source, **target):
    return sizes_of(target_config(source, TargetConfig(**target)))


def heads(sizes):
    return sizes.num_attention_heads, sizes.num_key_value_heads, sizes.head_dim


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_that_a_target_leaves_out_follow_the_source(tiny_model, family):
    source = tiny_model(family).config
    sizes = grown(source, hidden_size=64)
    assert (sizes.num_attention_heads, sizes.head_dim, sizes.intermediate_size, sizes.num_hidden_layers) == (8, 8, 256, 3)
    assert (sizes.vocab_size, sizes.max_position_embeddings) == (50, sizes_of(source).max_position_embeddings)
    assert sizes.num_key_value_heads == (4 if FAMILIES[family].grouped else 8)
    same = target_config(source, TargetConfig())
    assert sizes_of(same) == sizes_of(source)


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (BertConfig(), {"hidden_size": 1536}, (24, 24, 64)),
        (BertConfig(), {"hidden_size": 1536, "num_attention_heads": 12}, (12, 12, 128)),
        (GPT2Config(), {"hidden_size": 1536, "head_dim": 128}, (12, 12, 128)),
        (RobertaConfig(), {"hidden_size": 1152, "num_attention_heads": 12}, (12, 12, 96)),
        (LlamaConfig(**GROUPED), {"hidden_size": 96}, (12, 6, 8)),
        (LlamaConfig(**GROUPED), {"num_attention_heads": 16}, (16, 8, 8)),
        (LlamaConfig(**GROUPED), {"num_attention_heads": 16, "num_key_value_heads": 4}, (16, 4, 8)),
        (LlamaConfig(**GROUPED), {"num_key_value_heads": 8}, (8, 8, 8)),
        (LlamaConfig(**GROUPED), {"head_dim": 24}, (8, 4, 24)),
        (Qwen3Config(**GROUPED, head_dim=16), {"hidden_size": 128}, (16, 8, 16)),
        # 3 heads a group do not divide 16 heads; the 4 key-value heads do.
        (MistralConfig(**GROUPED | {"num_attention_heads": 12}, head_dim=8), {"num_attention_heads": 16}, (16, 4, 8)),
    ],
)
def test_heads_grow_in_number_or_in_width(source, target, expected):
    assert heads(grown(source, **target)) == expected


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=50, n_positions=16), {"hidden_size": 64}),
        (RobertaConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=50), {"head_dim": 16}),
        (LlamaConfig(**GROUPED), {"hidden_size": 128, "head_dim": 16}),
        (MistralConfig(**GROUPED), {"head_dim": 16, "num_attention_heads": 16}),
        (Qwen2Config(**GROUPED), {"head_dim": 16}),
        (Qwen3Config(**GROUPED, head_dim=8), {"hidden_size": 96, "head_dim": 32}),
    ],
)
def test_a_target_is_what_its_configuration_file_makes_of_it(source, target, tmp_path):
    """Every size survives Hugging Face's own configuration file, and the class built from it is the table's."""
    config = target_config(source, TargetConfig(**target, num_hidden_layers=3, vocab_size=64, max_position_embeddings=600))
    config.save_pretrained(tmp_path)
    read = AutoConfig.from_pretrained(tmp_path)
    assert sizes_of(read) == sizes_of(config)
    assert (config.num_hidden_layers, config.vocab_size, config.max_position_embeddings) == (3, 64, 600)
    check_parameters(FAMILIES[source.model_type], read)


def test_a_qwen2_head_dimension_stands_in_the_file_only_where_it_must():
    assert not hasattr(target_config(Qwen2Config(**GROUPED), TargetConfig(hidden_size=128)), "head_dim")
    wide = target_config(Qwen2Config(**GROUPED), TargetConfig(head_dim=16))
    assert wide.head_dim == 16
    # Twice the hidden size at the same width of attention: the source's own key must not stay behind.
    assert target_config(wide, TargetConfig(hidden_size=128, num_attention_heads=8, head_dim=32)).head_dim == 32


@pytest.mark.parametrize("sliding", [None, 7])
def test_a_deeper_qwen_attends_as_its_source_and_its_window_stays(sliding):
    every = {"use_sliding_window": True, "sliding_window": sliding, "max_window_layers": 0} if sliding else {}
    for config_class in (Qwen2Config, Qwen3Config):
        source = config_class(**GROUPED, **every)
        target = target_config(source, TargetConfig(num_hidden_layers=40))
        assert target.layer_types == source.layer_types[:1] * 40
        assert target.sliding_window == sliding
        # Derived anew from the other keys, the types are the same.
        settings = {key: value for key, value in target.to_dict().items() if key != "layer_types"}
        assert config_class(**settings).layer_types == target.layer_types
    assert target_config(MistralConfig(**GROUPED, sliding_window=7), TargetConfig(hidden_size=128)).sliding_window == 7


@pytest.mark.parametrize(("depth", "origins"), [("stack", [0, 1, 0, 1]), ("interleave", [0, 0, 1, 1])])
@pytest.mark.parametrize(
    ("source", "key", "kinds"),
    [
        (Qwen2Config(**GROUPED, use_sliding_window=True, sliding_window=7, max_window_layers=1), "layer_types",
         ["full_attention", "sliding_attention"]),
        (Gemma2Config(**GROUPED, layer_types=["full_attention", "sliding_attention"]), "layer_types",
         ["full_attention", "sliding_attention"]),
        (SmolLM3Config(**GROUPED, pad_token_id=None, no_rope_layers=[0, 1]), "no_rope_layers", [0, 1]),
    ],
)  # fmt: skip
def test_layers_of_different_kinds_keep_them_in_a_wider_and_in_a_deeper_model(source, key, kinds, depth, origins):
    assert getattr(target_config(source, TargetConfig(hidden_size=128)), key) == kinds
    deeper = target_config(source, TargetConfig(num_hidden_layers=4))
    grown = plan_growth(source, deeper, GrowthConfig(width="fpi", depth=depth), 0).config
    assert getattr(grown, key) == [kinds[origin] for origin in origins]
    check_parameters(FAMILIES[source.model_type], grown)


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [("smollm3", "no_rope_layers", [1, 1]), ("gemma3_text", "layer_types", ["full_attention"] * 2),
     ("cohere2", "layer_types", ["full_attention"] * 2), ("olmo3", "layer_types", ["full_attention"] * 2)],
)  # fmt: skip
def test_a_given_target_of_as_many_layers_has_the_sources_kinds_of_them(family, key, value):
    source = FAMILIES[family].config_class(**GROUPED, pad_token_id=None)
    setattr(source, key, [0, 1] if key == "no_rope_layers" else ["sliding_attention", "full_attention"])
    target = copy.deepcopy(source)
    check_growth(source, target, "t.json: ")
    setattr(target, key, value)
    with pytest.raises(UserError, match=rf"t\.json: {key}: .* is not the source's"):
        check_growth(source, target, "t.json: ")


@pytest.mark.parametrize(
    ("hidden", "ffn", "wider", "option", "expected"),
    [
        # Published: Llama 7B and 13B, and what Llama's ratio comes to for TinyLlama's sizes doubled.
        (4096, 11008, 5120, None, 13824),
        (2048, 5632, 4096, None, 11264),
        # 213.3 and 26.7 are no widths that any kernel likes.
        (48, 128, 80, None, 224),
        (48, 100, 80, None, 168),
        (64, 96, 80, None, 120),
        (48, 16, 80, None, 32),
        # Whole multiples of the hidden size stay what they are: GPT-2's and BERT's four times.
        (48, 192, 80, None, 320),
        (50, 100, 90, None, 180),
        # The option rounds in any case, the width of a model that grows in depth alone among them.
        (48, 128, 80, 1, 214),
        (48, 128, 80, 64, 256),
        (48, 192, 80, 128, 384),
        (48, 100, 48, 64, 128),
        (48, 100, 48, None, 100),
    ],
)
def test_an_ffn_is_rounded_up_as_published_models_are(hidden, ffn, wider, option, expected):
    keys = {"hidden_size": hidden, "num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 1}
    named = TargetConfig(hidden_size=wider, num_attention_heads=2, head_dim=64, ffn_multiple_of=option)
    for source in (
        LlamaConfig(**keys, intermediate_size=ffn, head_dim=64),
        Qwen3Config(**keys, intermediate_size=ffn, head_dim=64),
    ):
        target = target_config(source, named)
        assert target.intermediate_size == expected
        lines = [line for line in derived_sizes(source, target, named) if line.startswith("intermediate_size")]
        assert lines == [] if expected == ffn else f"{ffn} -> {expected}; the target does not name it" in lines[0]
        rounded = expected * hidden != ffn * wider
        assert all(("rounded up to a multiple of" in line) == rounded for line in lines)


@pytest.mark.parametrize(
    ("source", "target", "names"),
    [
        (LlamaConfig(**GROUPED), {"hidden_size": 96}, {"num_attention_heads", "num_key_value_heads", "intermediate_size"}),
        (LlamaConfig(**GROUPED), {"num_attention_heads": 16}, {"num_key_value_heads"}),
        (LlamaConfig(**GROUPED), {"num_hidden_layers": 5, "vocab_size": 70}, set()),
        (LlamaConfig(**GROUPED), {"hidden_size": 128, "num_attention_heads": 8, "intermediate_size": 100}, set()),
        (BertConfig(), {"hidden_size": 1536}, {"num_attention_heads", "intermediate_size"}),
        (BertConfig(), {"hidden_size": 1536, "num_attention_heads": 12}, {"head_dim", "intermediate_size"}),
        (GPT2Config(), {"n_embd": 1536, "n_inner": 4000}, {"num_attention_heads"}),
        (Qwen3Config(**GROUPED, head_dim=16), {"hidden_size": 128, "intermediate_size": 192},
         {"num_attention_heads", "num_key_value_heads"}),
    ],
)  # fmt: skip
def test_every_size_that_changes_and_was_not_named_is_told(source, target, names):
    named = TargetConfig(**target)
    lines = derived_sizes(source, target_config(source, named), named)
    assert {line.split(":")[0] for line in lines} == names
    old, new = sizes_of(source), sizes_of(target_config(source, named))
    for line in lines:
        key = line.split(":")[0]
        assert f"{key}: {getattr(old, key)} -> {getattr(new, key)}; the target does not name it, so it is set " in line


ROPE = {"rope_theta": 10000.0, "factor": 2.0}
YARN = LlamaConfig(**GROUPED, rope_parameters={"rope_type": "yarn", **ROPE})


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (GPT2Config(n_embd=32), {"hidden_size": 24}, "target.hidden_size: 24 is smaller than the source's 32"),
        (GPT2Config(), {"num_hidden_layers": 2}, "target.num_hidden_layers: 2 is smaller"),
        (GPT2Config(), {"intermediate_size": 100}, "target.intermediate_size: 100 is smaller"),
        (GPT2Config(), {"vocab_size": 100}, "target.vocab_size: 100 is smaller"),
        (BertConfig(), {"max_position_embeddings": 511}, "target.max_position_embeddings: 511 is smaller"),
        (GPT2Config(), {"hidden_size": 800}, "do not keep the source's head dimension 64"),
        (GPT2Config(), {"hidden_size": 1536, "num_attention_heads": 13}, "13 heads of 118 channels do not make up hidden_size"),
        (GPT2Config(), {"num_attention_heads": 24}, "target.head_dim: 32 is smaller than the source's 64"),
        (GPT2Config(), {"head_dim": 128}, "target.num_attention_heads: 6 is smaller than the source's 12"),
        (GPT2Config(), {"num_attention_heads": 24, "head_dim": 64}, "24 heads of 64 channels do not make up hidden_size 768"),
        (BertConfig(), {"num_key_value_heads": 6}, "target.num_key_value_heads: bert has as many as num_attention_heads"),
        (LlamaConfig(**GROUPED), {"hidden_size": 100}, "target.num_attention_heads: the source's 8 heads do not scale"),
        (LlamaConfig(**GROUPED), {"num_attention_heads": 9}, "target.num_key_value_heads: 9 query heads divide neither"),
        (LlamaConfig(**GROUPED), {"num_key_value_heads": 2}, "num_key_value_heads: 2 is smaller than the source's 4"),
        (LlamaConfig(**GROUPED), {"num_key_value_heads": 5}, "target.num_key_value_heads: 5 does not divide"),
        (Qwen3Config(**GROUPED | {"num_key_value_heads": 2}), {"num_attention_heads": 12, "num_key_value_heads": 4},
         "target.num_key_value_heads: groups of 3 query heads cannot take up the source's groups of 4"),
        (LlamaConfig(**GROUPED), {"head_dim": 12}, "target.head_dim: 12 is no multiple of the source's 8"),
        (LlamaConfig(**GROUPED), {"hidden_size": 68, "num_attention_heads": 8},
         "target.num_attention_heads: The hidden size (68) is not a multiple"),
        (YARN, {"head_dim": 16}, "target.head_dim: rotary positions of type 'yarn' change with it"),
    ],
)  # fmt: skip
def test_an_impossible_target_is_refused_by_key(source, target, words):
    with pytest.raises(UserError) as error:
        target_config(source, TargetConfig(**target))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 1e4},
        {"rope_type": "linear", **ROPE},
        {
            "rope_type": "llama3",
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
            **ROPE,
        },
    ],
)
def test_a_wider_head_holds_the_frequencies_of_the_narrow_one(rope):
    """Hugging Face's rotary embedding of the target: pair i of a head of d is pair k i of one of k d."""
    source = LlamaConfig(**GROUPED, rope_parameters=rope)
    target = target_config(source, TargetConfig(head_dim=24, max_position_embeddings=128))
    narrow, wide = (FAMILIES["llama"].model_class(config).model.rotary_emb.inv_freq for config in (source, target))
    assert (wide[::3] - narrow).abs().max() < 1e-6  # fp32, of frequencies up to 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_targets_dropout_is_the_recipes_and_the_sources_where_it_says_none(family):
    source = FAMILIES[family].config_class()
    of_other_heads = {"classifier_dropout", "summary_first_dropout", "qa_dropout", "seq_classif_dropout"}
    keys = {key for key in source.to_dict() if "drop" in key} - of_other_heads
    assert keys
    for key in keys:
        setattr(source, key, 0.3)
    for wanted in (0.0, 0.2):
        target = target_config(source, TargetConfig(dropout=wanted))
        assert {key: getattr(target, key) for key in keys} == dict.fromkeys(keys, wanted)
    kept = target_config(source, TargetConfig(dropout=None))
    assert {key: getattr(kept, key) for key in keys} == dict.fromkeys(keys, 0.3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_act": "relu"}, "t.json: hidden_act: 'relu' is not the source's 'silu'"),
        ({"rms_norm_eps": 1e-5}, "t.json: rms_norm_eps: 1e-05 is not the source's 1e-06"),
        ({"tie_word_embeddings": True}, "t.json: tie_word_embeddings: the source's output matrix is not its embedding"),
        ({"use_sliding_window": True}, "t.json: use_sliding_window: True is not the source's False"),
        ({"hidden_size": 32}, "t.json: hidden_size: 32 is smaller than the source's 64"),
        ({"num_key_value_heads": 5}, "t.json: num_key_value_heads: 5 does not divide num_attention_heads 8"),
        (
            {"layer_types": ["full_attention", "sliding_attention"]},
            "t.json: layer_types: ['full_attention', 'sliding_attention'] is not the source's",
        ),
    ],
)
def test_a_given_target_configuration_is_held_to_the_same_rules(changes, words):
    source = Qwen2Config(**GROUPED)
    target = copy.deepcopy(source)
    check_growth(source, target, "t.json: ")
    for key, value in changes.items():
        setattr(target, key, value)
    with pytest.raises(UserError, match=re.escape(words)):
        check_growth(source, target, "t.json: ")


def test_a_given_target_of_another_family_is_refused():
    with pytest.raises(UserError, match=r"t\.json: model_type: 'qwen3' is not the source's 'qwen2'"):
        check_growth(Qwen2Config(**GROUPED), Qwen3Config(**GROUPED), "t.json: ")


def test_a_head_whose_turned_channels_do_not_grow_with_it_is_refused():
    """Of 20 channels a third is 6, and of 40 it is 13."""
    share = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.33}
    sizes = {"hidden_size": 80, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 96, "vocab_size": 50}
    config = FAMILIES["phi3"].config_class(**sizes, num_hidden_layers=2, rope_parameters=share, pad_token_id=None, head_dim=20)
    with pytest.raises(UserError, match=r"target\.head_dim: of 40 channels 0\.33 are not the source's turned ones"):
        target_config(config, TargetConfig(head_dim=40))
