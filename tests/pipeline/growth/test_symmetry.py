"""Copies that stay copies waste what was added."""

import pytest
import torch

from pipeline.growth.duplicates import predict_duplicates
from pipeline.growth.float64_casts import Float64Casts
from pipeline.growth.reasons import predict
from tests.pipeline.growth import check
from tests.pipeline.growth.models import grown_tensors, loaded, logits, loss, plan_of, small_model, tokens
from tests.pipeline.growth.tensor_roles import role_of, split

EXACT = 1e-12
COPYING = ["fpi", "nai", "hypercloning", "average_pad", "sqrt_count"]
# The scores of one query do not change when all keys move alike: a key's bias learns nothing, new or old.
NEVER = {"k_bias", "segments"}


def grow(family, growth):
    model = small_model(family, layers=2)
    plan, config = plan_of(model, {"hidden_size": 64}, growth)
    return model, plan, loaded(grown_tensors(plan, model), config)


def train(model):
    """Twenty steps on random tokens."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(20):
        optimizer.zero_grad()
        loss(model, tokens(100 + step, windows=8)).backward()
        optimizer.step()


def distances_of_duplicates(model, wanted):
    """Return by name how far rows j and j + n / 2 are from each other, of those tensors whose role is wanted.

    At x2 the balanced map, and NAI's of as many new heads as there are, copy the whole axis once more.
    """
    family = model.config.model_type
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    distances = {}
    for name, tensor in split(family, tensors).items():
        if role_of(family, name) in wanted:
            first, second = tensor.chunk(2)
            distances[name] = ((first - second).norm(dim=-1) / first.norm(dim=-1)).min().item()
    return distances


@pytest.mark.parametrize("symmetry", ["paired", "split"])
@pytest.mark.parametrize("width", COPYING)
@pytest.mark.parametrize("family", ["gpt2", "bert", "llama"])
def test_noise_keeps_the_function_and_breaks_the_symmetry_of_duplicates(family, width, symmetry):
    model, plan, grown = grow(family, {"width": width, "symmetry": symmetry, "noise": 0.25})
    assert predict(plan) == predict_duplicates(plan) == []
    assert (logits(grown, tokens()) - logits(model, tokens())).abs().max() < EXACT
    train(grown)
    distances = distances_of_duplicates(grown, {"q", "k", "v", "up"})
    assert len(distances) == 2 * (5 if family == "llama" else 4)
    # Noise of a quarter of the deviation moves two rows away from each other by about a third of their norm from the start.
    assert min(distances.values()) > 0.05, distances


@pytest.mark.parametrize("family", ["gpt2", "bert", "llama", "qwen3"])
@pytest.mark.parametrize("width", COPYING)
def test_copies_stay_copies_for_ever(family, width):
    """The reason for `symmetry`: whatever duplicates learn, they learn alike."""
    _, plan, grown = grow(family, {"width": width})
    assert predict_duplicates(plan) == ["residual", "heads", "ffn"]
    before = {name: parameter.detach().clone() for name, parameter in grown.named_parameters()}
    train(grown)
    distances = distances_of_duplicates(grown, {"q", "k", "v", "up"})
    assert max(distances.values()) < EXACT, distances
    # It did learn: 20 steps of 1e-3 move an element by up to 0.02.
    moved = {name: parameter.detach() - before[name] for name, parameter in grown.named_parameters()}
    for name, distance in split(family, moved).items():
        assert role_of(family, name) in NEVER or distance.abs().max() > 1e-3, name


@pytest.mark.parametrize("family", ["gpt2", "bert", "llama", "qwen3"])
def test_exact_aki_has_no_duplicates(family):
    """New units read as the next layer's; at the top as the same layer's, but they write other things."""
    model, plan, grown = grow(family, {"width": "exact_aki"})
    assert predict_duplicates(plan) == (["residual"] if family == "bert" else [])
    assert (logits(grown, tokens()) - logits(model, tokens())).abs().max() < EXACT
    lower = {
        name: distance for name, distance in distances_of_duplicates(grown, {"q", "k", "v", "up"}).items() if ".0." in name
    }
    assert min(lower.values()) > 0.1, lower
    train(grown)
    assert min(distances_of_duplicates(grown, {"q", "k", "v", "up"}).values()) > 1e-3


@pytest.mark.parametrize(
    ("growth", "symmetry_broken"),
    [
        ({"width": "exact_aki"}, False),
        ({"width": "exact_aki", "symmetry": "paired", "noise": 0.3}, True),
        ({"width": "auto"}, True),
    ],
)
def test_the_copied_stream_of_a_post_ln_model_needs_its_duplicates_made_unlike(growth, symmetry_broken):
    """Embedding columns j and j + n / 2; `auto` sees to it by itself."""
    model, plan, grown = grow("bert", growth)
    assert predict_duplicates(plan) == ([] if symmetry_broken else ["residual"])
    assert (logits(grown, tokens()) - logits(model, tokens())).abs().max() < EXACT
    train(grown)
    first, second = grown.bert.embeddings.word_embeddings.weight.detach().chunk(2, dim=1)
    distance = ((first - second).norm() / first.norm()).item()
    assert distance > 1e-3 if symmetry_broken else distance < EXACT


def test_heads_under_one_norm_over_all_of_them_are_copies_that_auto_makes_unlike():
    """Of random heads such a norm would take in what they hold."""
    sizes = {"num_attention_heads": 8, "num_key_value_heads": 4}
    for growth, duplicates in (({}, []), ({"width": "exact_aki"}, ["heads"])):
        plan, model = check.planned("olmo2", sizes, growth)
        assert predict_duplicates(plan) == duplicates
        difference, grown = check.moved(plan, model)
        assert difference < 1e-11
        optimizer = torch.optim.AdamW(grown.parameters(), lr=1e-3)
        for _ in range(10):
            with Float64Casts():
                grown(input_ids=check.IDS, labels=check.IDS).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        queries = grown.model.layers[0].self_attn.q_proj.weight.unflatten(0, (8, -1))
        copied = plan.maps["heads"].indices
        distance = (queries[4:] - queries[copied[4:]]).abs().max().item()
        assert (distance < 1e-9) is bool(duplicates), distance
