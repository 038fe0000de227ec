"""How alike heads and layers are, against scipy."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from pipeline.report.attention.similarity import head_similarity, layer_similarity

TOKENS = 7


def random_maps(*heads: int, causal: bool, seed: int) -> torch.Tensor:
    scores = 3 * torch.randn(*heads, TOKENS, TOKENS, generator=torch.Generator().manual_seed(seed))
    if causal:
        scores = scores.masked_fill(torch.ones(TOKENS, TOKENS).triu(1).bool(), -torch.inf)
    return scores.softmax(-1)


@pytest.mark.parametrize("causal", [False, True])
def test_heads_are_compared_by_the_jensen_shannon_divergence_in_bits(causal):
    first, second = random_maps(3, causal=causal, seed=1), random_maps(4, causal=causal, seed=2)
    queries = range(1, TOKENS) if causal else range(TOKENS)
    expected = [
        [1 - np.mean([jensenshannon(a[q].double(), b[q].double(), base=2) ** 2 for q in queries]) for b in second]
        for a in first
    ]
    # scipy normalizes what float32 sums to 1 to within 1e-7.
    np.testing.assert_allclose(head_similarity(first, second, causal=causal), expected, atol=1e-6)


def test_equal_heads_are_alike_to_one_and_heads_without_a_key_in_common_to_none():
    maps = random_maps(2, causal=False, seed=3)
    assert head_similarity(maps, maps, causal=False).diagonal() == pytest.approx(1.0, abs=1e-12)
    first, last = torch.zeros(1, TOKENS, TOKENS), torch.zeros(1, TOKENS, TOKENS)
    first[..., 0], last[..., -1] = 1.0, 1.0
    assert head_similarity(first, last, causal=False).item() == 0.0


def test_layers_are_compared_by_each_heads_best_match():
    first, second = random_maps(2, 3, causal=True, seed=4), random_maps(3, 4, causal=True, seed=5)
    expected = [[head_similarity(a, b, causal=True).max(axis=0).mean() for b in second] for a in first]
    np.testing.assert_allclose(layer_similarity(first, second, causal=True), expected, atol=1e-12)


def test_layers_whose_heads_are_ordered_otherwise_are_alike_to_one():
    layer = random_maps(1, 4, causal=False, seed=6)
    assert layer_similarity(layer, layer[:, [2, 0, 3, 1]], causal=False).item() == pytest.approx(1.0, abs=1e-12)
