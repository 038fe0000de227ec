"""Norm statistics weighted by 1/C: exact at any ratio and for any map, and stock again at the end."""

import pytest
import torch

from pipeline.families import AxisKind
from pipeline.growth.weighted_norms import WeightedNorms
from tests.pipeline.growth.models import FAMILY_NAMES, grown_tensors, loaded, logits, plan_of, small_model, tokens


@pytest.mark.parametrize("growth", [{"width": "fpi"}, {"width": "fpi", "map": "random"}, {"width": "nai"}])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_weighted_copies_are_exact_and_turn_to_the_stock_model(family, growth):
    source = small_model(family)
    plan, config = plan_of(source, {"hidden_size": 80}, growth | {"norm_statistics": "weighted"})
    grown = loaded(grown_tensors(plan, source), config)
    before, stock = logits(source, tokens()), logits(grown, tokens())
    assert (stock - before).abs().max() > 1e-2, "or there is nothing to mend"
    norms = WeightedNorms(grown, plan.family, plan.target, plan.maps[AxisKind.RESIDUAL], 10)
    assert (logits(grown, tokens()) - before).abs().max() < 1e-12
    distances = []
    for step in (0, 5, 9, 10):
        norms.at(step)
        distances.append((logits(grown, tokens()) - stock).abs().max().item())
    assert distances[0] > distances[1] > distances[2] > distances[3] == 0.0
    assert not any("forward" in vars(module) for module in grown.modules())


def test_a_weighted_norm_is_the_mean_and_variance_over_source_channels():
    """Two channels, the second copied twice: the norm of (1, 3, 3) is that of (1, 3)."""
    source = small_model("gpt2")
    plan, config = plan_of(source, {"hidden_size": 48}, {"width": "fpi", "norm_statistics": "weighted"})
    grown = loaded(grown_tensors(plan, source), config)
    WeightedNorms(grown, plan.family, plan.target, plan.maps[AxisKind.RESIDUAL], 10)
    indices = plan.maps[AxisKind.RESIDUAL].indices
    channels = torch.linspace(-1, 2, 32, dtype=torch.float64)
    theirs, ours = source.transformer.h[0].ln_1(channels), grown.transformer.h[0].ln_1(channels[indices])
    assert (ours - theirs[indices]).abs().max() < 1e-14
