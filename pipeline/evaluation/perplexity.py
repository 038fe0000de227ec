"""Perplexity, of any loss."""

import math

_LARGEST = 700.0


def perplexity(loss: float) -> float:
    """Return e to a loss in nats, infinite where no float holds it; NaN where the loss is NaN."""
    return math.inf if loss > _LARGEST else math.exp(loss)
