"""Perplexity, of any loss."""

import math

_LARGEST = 700.0


def perplexity(loss: float) -> float:
    """Return e to a loss in nats, infinite where no float holds it; not a number where the loss is none."""
    return math.inf if loss > _LARGEST else math.exp(loss)
