"""How alike two attention heads look: the Jensen-Shannon divergence of what their queries attend to."""

import numpy as np
import torch


def head_similarity(first: torch.Tensor, second: torch.Tensor, *, causal: bool) -> np.ndarray:
    """Return how alike the heads of `first` [a, S, S] and of `second` [b, S, S] are, [a, b], from 0 to 1.

    s(A, B) = 1 - mean over queries q of JSD(A_q, B_q), with JSD(p, q) = H((p + q) / 2) - (H(p) + H(q)) / 2 in bits: 1 where
    every query spreads its attention over the keys alike, 0 where no two queries share a key. Under a causal mask the first
    query sees itself alone, is alike in all heads and is left out.
    """
    start = 1 if causal else 0
    these, those = (maps[:, start:].double() for maps in (first, second))
    entropy, other = (_entropy(maps) for maps in (these, those))
    divergence = torch.stack(
        [_entropy((head + those) / 2) - (own + other) / 2 for head, own in zip(these, entropy, strict=True)]
    )
    # Rounding leaves 1e-16 on either side.
    return (1.0 - divergence.mean(-1)).clamp(0.0, 1.0).numpy()


def layer_similarity(first: torch.Tensor, second: torch.Tensor, *, causal: bool) -> np.ndarray:
    """Return how alike the layers of `first` [L, a, S, S] and of `second` [M, b, S, S] are, [L, M].

    S(l, m) = mean over heads j of layer m of max over heads i of layer l of s(i, j): to what degree each head of the second
    model's layer m has one like it in the first's layer l. Heads of two layers have no numbering in common, which is why
    the best match counts and not the head of the same number; a maximum is above the mean even of unrelated heads.
    """
    heads = head_similarity(first.flatten(0, 1), second.flatten(0, 1), causal=causal)
    return heads.reshape(*first.shape[:2], *second.shape[:2]).max(axis=1).mean(axis=2)


def _entropy(distributions: torch.Tensor) -> torch.Tensor:
    """H over the last axis, in bits."""
    return -torch.xlogy(distributions, distributions).sum(-1) / np.log(2)
