"""Averaged and damped layers, and output matrices that are untied, against what they are by definition."""

import json
import threading

import pytest
import torch

from pipeline.common.errors import UserError
from pipeline.families import FAMILIES, target_config
from pipeline.growth.description import describe
from pipeline.growth.huggingface import MappedTensor
from pipeline.growth.moments import fresh_adam
from pipeline.growth.optimizer_growth import grow_optimizer
from pipeline.growth.reasons import Exactness, exactness, predict
from pipeline.growth.row_views import AveragedRows
from pipeline.growth.state import Constant
from pipeline.recipe import GrowthConfig, TargetConfig
from pipeline.report.attention.repeated_growth import growth_of
from tests.pipeline.growth import check
from tests.pipeline.growth.models import offline


def planned(name, growth, target=None, **options):
    return check.planned(name, {"num_hidden_layers": len(growth["layers"])} if target is None else target, growth, **options)


@pytest.mark.parametrize(
    ("name", "writers"),
    [
        ("gpt2", ("c_proj.weight", "c_proj.bias")),
        ("llama", ("o_proj.weight", "down_proj.weight")),
        ("olmo2", ("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")),
    ],
)
def test_an_averaged_layer_is_the_weighted_sum_and_what_repeats_adds_is_damped(name, writers):
    growth = {"depth": "list", "layers": [0, 1, {1: 0.25, 2: 0.75}, 1, 2], "repeat_scale": 0.5}
    plan, model = planned(name, growth)
    source, grown = model.state_dict(), check.grown_model(plan, model).state_dict()
    for tensor in plan.tensors.values():
        if tensor.layer not in (2, 3):
            continue
        kind = FAMILIES[name].kind(tensor.name)
        of = {1: 0.25, 2: 0.75} if tensor.layer == 2 else {1: 1.0}
        scale = 0.5 if tensor.name.endswith(writers) else 1.0
        wanted = scale * sum(weight * source[kind.format(layer=layer)] for layer, weight in of.items())
        torch.testing.assert_close(grown[tensor.name], wanted, rtol=1e-14, atol=1e-15)  # one rounding of float64
    assert {reason.code for reason in predict(plan)} == {"averaged_layers", "repeated_layers"}
    averaged = next(each.name for each in plan.tensors.values() if each.layer == 2 and not each.name.endswith(writers))
    assert describe(plan, averaged).startswith("0.25 of ")


def test_damped_gains_that_are_stored_less_one_are_damped_as_gains():
    plan, model = planned("gemma2", {"depth": "list", "layers": [0, 1, 0, 1, 2], "repeat_scale": 0.5})
    name = "model.layers.{}.post_feedforward_layernorm.weight"
    damped = check.grown_model(plan, model).state_dict()[name.format(2)]
    torch.testing.assert_close(1 + damped, 0.5 * (1 + model.state_dict()[name.format(0)]), rtol=1e-14, atol=1e-15)


def test_the_stack_can_be_damped():
    plan, model = planned("llama", {"depth": "stack", "repeat_scale": 0.3}, {"num_hidden_layers": 6})
    grown, source = check.grown_model(plan, model).state_dict(), model.state_dict()
    for layer, scale in ((1, 1.0), (4, 0.3)):
        name = "model.layers.{}.mlp.down_proj.weight"
        torch.testing.assert_close(grown[name.format(layer)], scale * source[name.format(1)], rtol=1e-15, atol=0)


def test_an_average_in_a_layers_own_place_is_told():
    """Each source layer stands where it did by number, and the model is not the source's all the same."""
    plan, model = planned("llama", {"depth": "list", "layers": [0, {1: 0.9, 2: 0.1}, 2]})
    assert exactness(predict(plan)) is Exactness.BY_DESIGN
    assert "averaged_layers" in {reason.code for reason in predict(plan)}
    assert check.moved(plan, model)[0] > 1e-2


def test_a_zero_output_average_keeps_the_function():
    plan, model = planned("llama", {"depth": "list", "layers": [0, 1, {0: 0.5, 1: 0.5}, 2], "silent": [2]})
    assert predict(plan) == []
    assert check.moved(plan, model)[0] < 1e-12


def test_averages_are_the_same_bits_however_many_rows_are_read_and_after_json():
    one, other = (torch.randn(9, 5, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    rows = AveragedRows([(MappedTensor(one), 0.3), (MappedTensor(other.double()), 0.7)])
    assert rows.rows(0, 9).dtype is torch.float64
    assert torch.equal(torch.cat([rows.rows(i, i + 1) for i in range(9)]), rows.rows(0, 9))
    growth = GrowthConfig(depth="list", layers=[0, {0: 0.5, 1: 0.5}, 1, 2])
    read = growth_of({"growth": json.loads(json.dumps(growth.model_dump()))})
    layers = [planned("llama", each.model_dump(), {"num_hidden_layers": 4})[0].layers for each in (read, growth)]
    assert layers[0] == layers[1]


@pytest.mark.parametrize(
    ("name", "options", "growth", "says"),
    [
        ("llama", {}, {"layers": [0, {0: 0.5, 1: 0.6}, 1, 2]}, "target layer 1 sum to 1.1"),
        ("llama", {}, {"layers": [0, {0: 0.5, 3: 0.5}, 1, 2]}, "3 is no layer of the source"),
        (
            "gemma3_text",
            {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
            {"layers": [0, {0: 0.5, 1: 0.5}, 1, 2]},
            "layers 0 and 1 differ in their windows",
        ),
        ("modernbert", {}, {"layers": [0, {0: 0.5, 1: 0.5}, 1, 2]}, "layers 0 and 1 differ in their windows"),
    ],
)
def test_averages_that_are_none_are_refused(name, options, growth, says):
    with pytest.raises(UserError, match=says):
        planned(name, growth | {"depth": "list"}, **options)


@pytest.mark.parametrize("name", ["gpt2", "bert", "gemma2"])
def test_an_untied_output_matrix_starts_without_moments_and_so_does_the_embedding(name):
    """Each of the two has from here on its own part of a gradient that was their sum."""
    plan, model = planned(name, {}, {"tie_word_embeddings": False, "hidden_size": 128}, tie_word_embeddings=True)
    state = {key: {"exp_avg": Constant(tuple(value.shape), 2.0), "exp_avg_sq": Constant(tuple(value.shape), 3.0), "step": 7.0}
             for key, value in model.named_parameters()}  # fmt: skip
    grown = grow_optimizer(plan, state)
    family = plan.family
    for matrix in (family.words, family.output):
        for key, fresh in fresh_adam(tuple(plan.tensors[matrix].shape(plan.graph.sizes)), False).items():
            kept = grown[matrix][key]
            rows = 0.0 if isinstance(kept, float) else kept.rows(0, kept.shape[0]).abs().max()
            assert float(rows) == 0.0 == (fresh if isinstance(fresh, float) else float(fresh.rows(0, 1).max()))
    layer = next(each.name for each in plan.tensors.values() if each.layer == 0 and len(each.axes) == 2)
    assert float(grown[layer]["exp_avg"].rows(0, 4).abs().max()) > 0


def test_a_matrix_of_its_own_is_not_tied_again():
    config = check.small_config(FAMILIES["llama"], tie_word_embeddings=False)
    with pytest.raises(UserError, match=r"target\.tie_word_embeddings: the source's output matrix is not its embedding"):
        target_config(config, TargetConfig(tie_word_embeddings=True))


def test_values_beyond_all_numbers_are_refused_and_nothing_goes_on_behind_the_refusal(tmp_path):
    """A thread inside torch would abort the process as it exits."""
    family = FAMILIES["llama"]
    check.random_model(family, check.small_config(family), 1).float().save_pretrained(tmp_path / "source")
    growth = offline(
        tmp_path / "source", tmp_path / "grown", {"num_hidden_layers": 5}, {"depth": "stack", "repeat_scale": 1e308}
    )
    with pytest.raises(UserError, match="growth makes values of it that are NaN or infinity"):
        growth.execute(lambda certificate: {})
    assert not [thread for thread in threading.enumerate() if thread.name == "beside"]
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
