"""Norm statistics weighted by 1/C: exact at any ratio and for any map, and stock again at the end."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.growth.weighted_norms import WeightedNorms
from tests.pipeline.growth.models import FAMILY_NAMES, OTHERS, grown_tensors, loaded, logits, plan_of, small_model, tokens


def copied(source, hidden, growth):
    """The plan of copies under weighted statistics, and the grown stock model."""
    plan, config = plan_of(source, {"hidden_size": hidden}, growth | {"norm_statistics": "weighted"})
    return plan, loaded(grown_tensors(plan, source), config)


@pytest.mark.parametrize("growth", [{"width": "fpi"}, {"width": "fpi", "map": "random"}, {"width": "nai"}])
@pytest.mark.parametrize("family", [*FAMILY_NAMES, *OTHERS])
def test_weighted_copies_are_exact_and_turn_to_the_stock_model(family, growth):
    source = small_model(family)
    plan, grown = copied(source, 80, growth)
    before, stock = logits(source, tokens()), logits(grown, tokens())
    assert (stock - before).abs().max() > 1e-2, "or there is nothing to mend"
    norms = WeightedNorms(grown, plan.graph, plan.maps["residual"], 10)
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
    plan, grown = copied(source, 48, {"width": "fpi"})
    WeightedNorms(grown, plan.graph, plan.maps["residual"], 10)
    indices = plan.maps["residual"].indices
    channels = torch.linspace(-1, 2, 32, dtype=torch.float64)
    theirs, ours = source.transformer.h[0].ln_1(channels), grown.transformer.h[0].ln_1(channels[indices])
    assert (ours - theirs[indices]).abs().max() < 1e-14


def test_the_weights_stay_on_the_device_and_take_the_values_of_each_step_there():
    plan, grown = copied(small_model("gpt2"), 80, {"width": "fpi"})
    residual = plan.maps["residual"]
    norms = WeightedNorms(grown, plan.graph, residual, 10)
    copies = []

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            copies.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    module, hidden = grown.transformer.h[0].ln_1, torch.randn(3, 80, dtype=torch.float64)
    # The first call brings them into the type that it computes in.
    single = hidden.float()
    module(single)
    with Copies():
        module(single)
    assert not {"_to_copy", "copy_"} & set(copies)
    for step in (0, 3, 9):
        norms.at(step)
        weights = (1 - step / 10) / (residual.counts * 32) + step / 10 / 80
        centred = hidden - (hidden * weights).sum(-1, keepdim=True)
        expected = centred * torch.rsqrt((centred.square() * weights).sum(-1, keepdim=True) + module.eps)
        torch.testing.assert_close(module(hidden), expected * module.weight + module.bias, rtol=0, atol=1e-14)
