"""Routers that compute in float32, against the stock classes in float32 throughout."""

import copy

import pytest
import torch

from pipeline.families import FAMILIES, check
from pipeline.families.routing import route_in_float32, routers

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
