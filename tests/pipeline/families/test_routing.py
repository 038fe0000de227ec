"""Routers that compute in float32, against the stock classes in float32 throughout."""

import copy
from contextlib import nullcontext

import pytest
import torch

from pipeline.families import FAMILIES
from pipeline.families.routing import grouped_refusal, route_in_float32, routers
from tests.pipeline.growth import check

MIXTURES = ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v3"]


@pytest.mark.parametrize("name", MIXTURES)
def test_a_router_chooses_as_its_class_does_in_float32(name):
    family = FAMILIES[name]
    config = check.small_config(family)
    graph = family.graph(config)
    model = check.random_model(family, config, 1).bfloat16()
    stock = copy.deepcopy(model)
    route_in_float32(model, graph)
    stream = torch.randn(2, 200, graph.sizes["residual"], generator=torch.Generator().manual_seed(2)).bfloat16()
    found = list(routers(graph))
    assert [router.layer for router in found] == sorted(graph.mixtures.layers)
    for router in found:
        ours, rounded = (each.get_submodule(router.module) for each in (model, stock))
        # Of the same rounded weights.
        expected = copy.deepcopy(rounded).float()(stream.float())
        for one, other in zip(ours(stream), expected, strict=True):
            assert one.dtype == other.dtype and torch.equal(one, other)
        # DeepSeek's class computes in float32 by itself.
        assert name == "deepseek_v3" or not torch.equal(rounded(stream)[0].float(), expected[0])
        assert ours.weight.dtype is torch.bfloat16


@pytest.mark.parametrize("name", MIXTURES)
def test_a_model_in_float64_routes_in_float64(name):
    family = FAMILIES[name]
    config = check.small_config(family)
    model = check.random_model(family, config, 1)
    tokens = torch.arange(24).reshape(2, 12)
    before = check.logits(family, model, tokens)
    route_in_float32(model, family.graph(config))
    assert torch.equal(check.logits(family, model, tokens), before)


def test_a_dense_model_has_no_router_and_a_dense_layer_none():
    llama, family = FAMILIES["llama"], FAMILIES["qwen3_moe"]
    assert not list(routers(llama.graph(check.small_config(llama))))
    config = check.small_config(family, num_hidden_layers=3, mlp_only_layers=[1])
    assert [router.layer for router in routers(family.graph(config))] == [0, 2]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("hidden", "units"), [(64, 64), (64, 36), (60, 64), (64, 30)])
def test_sizes_that_torchs_grouped_products_do_not_take_are_known_before(hidden, units, dtype):
    family = FAMILIES["mixtral"]
    config = check.small_config(family, hidden_size=hidden, intermediate_size=units)
    config._experts_implementation = "grouped_mm"
    experts = family.model(config).to(dtype).model.layers[0].mlp
    expected = nullcontext() if grouped_refusal(family.graph(config), dtype) is None else pytest.raises(RuntimeError)
    with expected:
        experts(torch.randn(1, 12, hidden, dtype=dtype))
