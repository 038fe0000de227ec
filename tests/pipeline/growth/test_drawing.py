"""How wide random weights are drawn: of models from scratch, and of what growth adds."""

import pytest
from transformers import T5Config

from pipeline.common.errors import UserError
from pipeline.families import FAMILIES, scratch_config, target_config
from pipeline.growth.initialization import initialized
from pipeline.growth.plan import plan_growth
from pipeline.recipe import GrowthConfig, ModelConfig, TargetConfig

SIZES = {"num_hidden_layers": 1, "num_attention_heads": 2}


def source(family="llama", width=48, **others):
    model = ModelConfig(family=family, hidden_size=width, **SIZES, **others)
    return scratch_config(model, 32, 0, 8)


@pytest.mark.parametrize("family", ["gpt2", "bert", "llama", "mixtral"])
def test_by_width_a_range_is_the_stock_one_at_768_and_goes_by_one_over_the_root(family):
    assert source(family, 768, initializer_range="width").initializer_range == 0.02
    # 768 is 16 times 48.
    config = source(family, 48, initializer_range="width")
    assert config.initializer_range == pytest.approx(0.08, rel=1e-12)
    graph, state = FAMILIES[family].graph(config), initialized(FAMILIES[family], config, 1)
    embedding = state[graph.stack.embeddings[0].weight]
    assert embedding.rows(0, 32).std().item() == pytest.approx(0.08, rel=0.05)


@pytest.mark.parametrize(("chosen", "expected"), [(None, 0.3), (0.5, 0.5), ("width", 0.04)])
def test_growth_draws_by_the_range_that_it_is_given(chosen, expected):
    given = source(initializer_range=0.3)
    target = target_config(given, TargetConfig(hidden_size=192, num_hidden_layers=2))
    growth = GrowthConfig(width="direct_copy", depth="random", initializer_range=chosen)
    plan = plan_growth(given, target, growth, 1)
    grown = plan.grow(initialized(FAMILIES["llama"], given, 2))
    drawn = grown["model.layers.1.self_attn.q_proj.weight"].rows(0, 192)
    assert drawn.std().item() == pytest.approx(expected, rel=0.03)
    # The new rows of an old matrix too, beside the source's corner.
    assert grown["model.layers.0.self_attn.q_proj.weight"].rows(48, 192).std().item() == pytest.approx(expected, rel=0.03)
    assert plan.config.initializer_range == pytest.approx(expected, rel=1e-12)
    assert target.initializer_range == 0.3


def test_experts_that_are_drawn_anew_are_drawn_by_it():
    given = source("qwen2")
    target = target_config(given, TargetConfig(model_type="qwen2_moe", num_experts=4, num_experts_per_tok=2))
    growth = GrowthConfig(initializer_range=0.5)
    router = plan_growth(given, target, growth, 1).grow(initialized(FAMILIES["qwen2"], given, 2))[
        "model.layers.0.mlp.gate.weight"
    ]
    assert router.rows(0, 4).std().item() == pytest.approx(0.5, rel=0.2)


def test_a_class_without_the_key_is_refused():
    given = T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    target = target_config(given, TargetConfig(num_hidden_layers=2))
    with pytest.raises(UserError, match=r"^growth\.initializer_range: a t5 has no such key"):
        plan_growth(given, target, GrowthConfig(initializer_range=0.1), 1)
