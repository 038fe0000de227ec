"""Configuration files as models are published with: through a plan at full size, and shrunk through a real growth."""

import json

import pytest
import torch

from pipeline.families import family_of, read_config, target_config
from pipeline.families.consistency import check_config
from pipeline.growth.plan import plan_growth
from pipeline.growth.reasons import Exactness, exactness, predict
from pipeline.recipe import GrowthConfig, TargetConfig
from pipeline.recipe.models import OWN_KEYS
from tests.pipeline.growth import check

_OLD = {"torch_dtype": "bfloat16", "use_cache": True, "initializer_range": 0.02, "attention_dropout": 0.0}

_T5 = {
    "architectures": ["T5ForConditionalGeneration"],
    "d_kv": 64,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_num_buckets": 32,
    "vocab_size": 32128,
}

PUBLISHED = {
    "Gemma-2 2B": {
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "attention_bias": False,
        "attn_logit_softcapping": 50.0,
        "bos_token_id": 2,
        "cache_implementation": "hybrid",
        "eos_token_id": [1, 107],
        "final_logit_softcapping": 30.0,
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "max_position_embeddings": 8192,
        "num_attention_heads": 8,
        "num_hidden_layers": 26,
        "num_key_value_heads": 4,
        "pad_token_id": 0,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "vocab_size": 256000,
    },
    "Gemma-3 1B": {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "max_position_embeddings": 32768,
        "num_attention_heads": 4,
        "num_hidden_layers": 26,
        "num_key_value_heads": 1,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06,
        "rope_local_base_freq": 10000,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "vocab_size": 262144,
    },
    "Phi-3 mini": {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "attention_bias": False,
        "bos_token_id": 1,
        "embd_pdrop": 0.0,
        "eos_token_id": 32000,
        "hidden_act": "silu",
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "max_position_embeddings": 4096,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "original_max_position_embeddings": 4096,
        "pad_token_id": 32000,
        "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "sliding_window": 2047,
        "tie_word_embeddings": False,
        "vocab_size": 32064,
    },
    "Phi-4 mini": {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "hidden_act": "silu",
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "num_attention_heads": 24,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "original_max_position_embeddings": 4096,
        "pad_token_id": 199999,
        "partial_rotary_factor": 0.75,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [1.0 + i / 8 for i in range(48)]},
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "vocab_size": 200064,
    },
    "SmolLM3 3B": {
        "architectures": ["SmolLM3ForCausalLM"],
        "model_type": "smollm3",
        "attention_bias": False,
        "bos_token_id": None,
        "eos_token_id": 128012,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "max_position_embeddings": 65536,
        "max_window_layers": 28,
        "mlp_bias": False,
        "no_rope_layer_interval": 4,
        "no_rope_layers": [1, 1, 1, 0] * 9,
        "num_attention_heads": 16,
        "num_hidden_layers": 36,
        "num_key_value_heads": 4,
        "pad_token_id": 128004,
        "pretraining_tp": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 5000000.0,
        "sliding_window": None,
        "use_sliding_window": False,
        "vocab_size": 128256,
    },
    "Pythia 160M": {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_act": "gelu",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 2048,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "use_parallel_residual": True,
        "vocab_size": 50304,
    },
    "Granite 4.1 3B": {
        "architectures": ["GraniteForCausalLM"],
        "model_type": "granite",
        "attention_multiplier": 0.015625,
        "embedding_multiplier": 12.0,
        "hidden_act": "silu",
        "hidden_size": 2560,
        "intermediate_size": 8192,
        "logits_scaling": 10.0,
        "num_attention_heads": 40,
        "num_hidden_layers": 40,
        "num_key_value_heads": 8,
        "residual_multiplier": 0.22,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000000.0,
        "tie_word_embeddings": True,
        "vocab_size": 100352,
    },
    "OLMo-2 1B": {
        "architectures": ["Olmo2ForCausalLM"],
        "model_type": "olmo2",
        "attention_bias": False,
        "eos_token_id": 100257,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "max_position_embeddings": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 16,
        "num_key_value_heads": 16,
        "pad_token_id": 100277,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 500000,
        "tie_word_embeddings": False,
        "vocab_size": 100352,
    },
    "StarCoder2 3B": {
        "architectures": ["Starcoder2ForCausalLM"],
        "model_type": "starcoder2",
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 3072,
        "intermediate_size": 12288,
        "max_position_embeddings": 16384,
        "mlp_type": "default",
        "norm_epsilon": 1e-05,
        "num_attention_heads": 24,
        "num_hidden_layers": 30,
        "num_key_value_heads": 2,
        "rope_theta": 999999.4420358813,
        "sliding_window": 4096,
        "use_bias": True,
        "vocab_size": 49152,
    },
    "T5 v1.1 small": _T5
    | {
        "d_ff": 1024,
        "d_model": 512,
        "feed_forward_proj": "gated-gelu",
        "num_decoder_layers": 8,
        "num_heads": 6,
        "num_layers": 8,
        "tie_word_embeddings": False,
    },
    "T5 v1.1 base": _T5
    | {
        "d_ff": 2048,
        "d_model": 768,
        "feed_forward_proj": "gated-gelu",
        "num_decoder_layers": 12,
        "num_heads": 12,
        "num_layers": 12,
        "tie_word_embeddings": False,
    },
    "T5 small": _T5 | {"d_ff": 2048, "d_model": 512, "n_positions": 512, "num_heads": 8, "num_layers": 6},
}


def read(path, content):
    """The configuration as a source's is read, its family's rules held."""
    path.write_text(json.dumps(_OLD | content), encoding="utf-8")
    config = read_config(path)
    family = family_of(config, str(path))
    check_config(family, config, str(path))
    return family, config


def shrunk(content):
    """The same of four layers and narrow heads, what else it says as it is."""
    own = {same: key for key, same in OWN_KEYS.items() if key in content}
    heads = content[own.get("num_attention_heads", "num_attention_heads")]
    group = heads // content.get("num_key_value_heads", heads)
    sizes = {"num_hidden_layers": 4, "num_attention_heads": 2 * group, "hidden_size": 32 * group, "intermediate_size": 80}
    small = content | {own.get(key, key): size for key, size in sizes.items()}
    small |= {
        "vocab_size": 61,
        "max_position_embeddings": 64,
        "pad_token_id": 1,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }
    small |= {"num_key_value_heads": 2} if "num_key_value_heads" in content else {}
    small |= {key: 16 for key in ("head_dim", "d_kv") if key in content}
    small |= {"num_decoder_layers": 3} if "num_decoder_layers" in content else {}
    small |= {"sliding_window": 7} if content.get("sliding_window") else {}
    small |= {"no_rope_layers": [1, 1, 1, 0]} if "no_rope_layers" in content else {}
    small |= {"original_max_position_embeddings": 64} if "original_max_position_embeddings" in content else {}
    if (content.get("rope_scaling") or {}).get("type") == "longrope":
        factors = [1.0 + i / 8 for i in range(6)]
        small["rope_scaling"] = {"type": "longrope", "short_factor": factors, "long_factor": factors}
    return small


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_configuration_grows_exactly_at_its_size_and_shrunk(tmp_path, name):
    family, config = read(tmp_path / "config.json", PUBLISHED[name])
    target = target_config(
        config, TargetConfig(hidden_size=2 * config.hidden_size, num_hidden_layers=config.num_hidden_layers + 4)
    )
    assert exactness(predict(plan_growth(config, target, GrowthConfig(), 1, stock=True))) is Exactness.EXACT

    family, config = read(tmp_path / "config.json", shrunk(PUBLISHED[name]))
    model = check.random_model(family, config, 1)
    ids = torch.randint(4, 61, (2, 24), generator=torch.Generator().manual_seed(2))
    before = check.logits(family, model, ids)
    for sizes in ({"hidden_size": 2 * config.hidden_size}, {"num_hidden_layers": 6}):
        plan = plan_growth(config, target_config(config, TargetConfig(**sizes)), GrowthConfig(), 1, stock=True)
        assert exactness(predict(plan)) is Exactness.EXACT
        moved = (check.logits(family, check.grown_model(plan, model), ids) - before).abs().max().item()
        assert moved < check.EXACT * max(1.0, before.abs().max().item()), sizes
