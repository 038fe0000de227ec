"""What a plan says of each tensor, against what the tensor then holds."""

import pytest

from pipeline.families import target_config
from pipeline.growth.description import describe
from pipeline.growth.huggingface import open_huggingface
from pipeline.growth.plan import plan_growth
from pipeline.recipe import GrowthConfig, TargetConfig
from tests.pipeline.growth import check


@pytest.fixture
def planned(tmp_path, tiny_model):
    """A maker of what a plan says of each tensor, and of the tensors, for a GPT-2 of 32 channels and 16 positions."""
    tiny_model("gpt2").save_pretrained(tmp_path)
    source = open_huggingface(tmp_path)

    def plan(target, **growth):
        config = target_config(source.config, TargetConfig(**target))
        made = plan_growth(source.config, config, GrowthConfig(**growth), 0)
        state = made.grow(source.state)
        return {name: describe(made, name) for name in state}, state

    return plan


def test_stretched_positions_are_said_to_be(planned):
    name, longer = "transformer.wpe.weight", {"max_position_embeddings": 24}
    assert "positions 16 -> 24: stretched" in planned(longer, positions="interpolate")[0][name]
    assert "positions 16 -> 24: 24 copied (8 of them repeat others)" in planned(longer)[0][name]
    assert "positions unchanged" in planned({}, positions="interpolate")[0][name]


@pytest.mark.parametrize(
    ("name", "said"),
    [("gemma2", "-1, to which the norm adds 1: the layer writes nothing"), ("olmo2", "zero: the layer writes nothing")],
)
def test_a_gain_that_silences_a_layer_is_said_as_it_is_stored(name, said):
    plan, model = check.planned(name, {"num_hidden_layers": 4}, {"depth": "last_layer"})
    gain = "model.layers.3.post_feedforward_layernorm.weight"
    assert describe(plan, gain) == said
    stored = check.grown_model(plan, model).state_dict()[gain]
    assert (stored == (-1.0 if name == "gemma2" else 0.0)).all()


@pytest.mark.parametrize(
    ("growth", "words"),
    [
        ({"width": "nai", "noise": 0.125}, "noise of 0.125 standard deviations on what is copied again"),
        ({"width": "fpi", "symmetry": "paired", "noise": 0.25}, "noise of 0.25 standard deviations"),
        ({"width": "fpi", "symmetry": "split", "noise": 0.5}, "copies' shares differ by up to 0.5 of the weight"),
    ],
)
def test_noise_is_said_of_the_tensors_that_get_it(planned, growth, words):
    said, noisy = planned({"hidden_size": 64}, **growth)
    _, plain = planned({"hidden_size": 64}, width=growth["width"])
    for name, sentence in said.items():
        values, without = (state[name].rows(0, state[name].shape[0]) for state in (noisy, plain))
        assert (words in sentence) == bool((values != without).any()), name
    assert words in said["transformer.h.0.mlp.c_fc.weight"]
    assert not any(words in sentence for sentence in planned({}, **growth)[0].values())
