"""A grown model goes on as its source would have, step by step, under each optimizer, where the two are known to be alike.

Of both the gradients, and so the losses, are the same as long as their steps are.
"""

import pytest
import torch

from pipeline.families import graph_of
from pipeline.growth.moments import steps_as_matrix
from pipeline.growth.optimizer_growth import grow_optimizer
from pipeline.growth.step_predictions import predict_moments, predict_steps
from pipeline.recipe import OptimizerConfig
from pipeline.training.optimizer import build_optimizer, optimizer_groups
from pipeline.training.parameter_groups import cut
from tests.pipeline.growth.models import grown_tensors, loaded, loss, plan_of, small_model, tokens
from tests.pipeline.training.optimizers import kept_by, locate_whole, restore

STEPS = 10
SAME = 1e-6
"""Grown moments are float32: seven digits of steps that move the loss by some tenths."""
OTHER = 1e-4
RATES = {"adamw": 3e-3, "lion": 1e-3, "muon": 3e-3}


class Run:
    """A model in float64 and its optimizer."""

    def __init__(self, model, name, width_rates, kept=None):
        options = {} if width_rates == "none" else {"width_rates": width_rates, "base_width": 32}
        options |= {"muon_lr": 0.02} if name == "muon" else {}
        # An eps that is small beside all gradients: AdamW's is scaled by `element_rates` alone.
        options |= {} if name == "lion" else {"eps": 1e-15}
        config = OptimizerConfig(name=name, lr=RATES[name], weight_decay=0.1, **options)
        graph = graph_of(model.config)
        groups = optimizer_groups(model, graph, cut(len(graph.layers), []), config)
        for group in groups:
            group["lr"] = config.lr * group["rate_ratio"]
        self.model = model
        self.optimizer = build_optimizer(graph, groups, config, {})
        if name == "muon":
            self.optimizer._dtype = torch.float64
            locate_whole(self.optimizer, model)
        restore(self.optimizer, model, kept or {})

    def train(self, first):
        losses = []
        for step in range(first, first + STEPS):
            self.model.zero_grad()
            value = loss(self.model, tokens(step, windows=4))
            value.backward()
            self.optimizer.step()
            losses.append(value.item())
        return losses


def continued(name, growth, target, *, family="llama", width_rates="none", trains=lambda tensor: True):
    """Return (how far apart the losses of ten further steps of source and target are, the plan)."""
    model = small_model(family, tied=False, layers=2)
    for tensor in graph_of(model.config).tensors().values():
        model.get_parameter(tensor.name).requires_grad_(trains(tensor))
    source = Run(model, name, width_rates)
    before = source.train(0)
    plan, config = plan_of(model, target, growth | {"optimizer_state": "grow"}, optimizer=name)
    grown = loaded(grown_tensors(plan, model), config)
    for tensor in plan.tensors.values():
        added = tensor.layer is not None and plan.layers[tensor.layer].added
        grown.get_parameter(tensor.name).requires_grad_(trains(tensor) and not added)
    after = Run(grown, name, width_rates, grow_optimizer(plan, kept_by(source.optimizer, model))).train(STEPS)
    expected = source.train(STEPS)
    # What there is to compare moves.
    assert min(before) - min(expected) > 1e-2
    return max(abs(one - other) for one, other in zip(expected, after, strict=True)), plan


@pytest.mark.parametrize(("name", "family"), [("muon", "gpt2"), ("muon", "llama"), ("lion", "llama"), ("adamw", "gpt2")])
def test_a_deeper_model_whose_new_layers_are_silent_and_stand_still_goes_on_as_its_source(name, family):
    apart, plan = continued(name, {"depth": "interleave"}, {"num_hidden_layers": 5}, family=family)
    assert apart < SAME and predict_moments(plan) == predict_steps(plan) == []


TWICE = {"hidden_size": 64}
TWICE_AND_MORE = {"hidden_size": 64, "intermediate_size": 192}


@pytest.mark.parametrize(("name", "family"), [("muon", "gpt2"), ("muon", "llama"), ("lion", "gpt2"), ("adamw", "llama")])
def test_whole_copies_go_on_as_their_source_where_rates_go_by_fan_in(name, family):
    """W' = R W S^T / d reads d times as much and moves at 1 / d; Muon's step of R G S^T is R O S^T / sqrt(c d)."""
    apart, plan = continued(name, {"width": "fpi"}, TWICE_AND_MORE, family=family, width_rates="spectral")
    assert apart < SAME
    assert predict_moments(plan) == []
    # What is said of steps names the option that was set here.
    assert all("optimizer.width_rates" in cause for cause in predict_steps(plan))


@pytest.mark.parametrize(
    ("growth", "target", "says"),
    [
        ({"width": "fpi"}, TWICE, None),
        # 32 channels read 64 units, and 64 read 192: the scale is 1 in both, and what is right is sqrt(2 / 3) of it.
        ({"width": "fpi"}, TWICE_AND_MORE, "longer or shorter"),
        ({"width": "fpi"}, {"hidden_size": 48}, "not equally often"),
        ({"width": "exact_aki"}, TWICE, "new rows and columns"),
    ],
)
def test_muons_matrices_alone_go_on_as_their_source_where_all_sizes_grow_by_one_multiple(growth, target, says):
    apart, plan = continued("muon", growth, target, trains=steps_as_matrix)
    causes = [cause for cause in predict_steps(plan) if "element_rates" not in cause]
    assert (causes == []) == (says is None) == (apart < SAME), (apart, causes)
    assert says is None or (apart > OTHER and any(says in cause for cause in causes))
