"""The bytes that growth is said to read are those that it asks for, rank by rank."""

import math

import pytest
import torch

from pipeline.growth.huggingface import MappedTensor
from pipeline.growth.optimizer_growth import grow_optimizer
from pipeline.growth.reading import bytes_read
from pipeline.growth.state import flat
from tests.pipeline.growth.models import state_of
from tests.pipeline.growth.test_partitions import GROWTHS, INTERPOLATED, TARGETS, grown_by

RANKS = 5
POSITIONS = "bert.embeddings.position_embeddings.weight"


class Watched(MappedTensor):
    """A tensor that takes note of the rows it is asked for."""

    def __init__(self, tensor: MappedTensor) -> None:
        super().__init__(tensor._tensor)
        self.asked: set[int] = set()

    def rows(self, start: int, stop: int) -> torch.Tensor:
        self.asked |= set(range(start, stop))
        return super().rows(start, stop)


def asked_for(plan, model, optimizer: bool, together: int) -> tuple[list[int], int, int]:
    """Return (bytes asked for by each node, the most and the sum that were foretold)."""
    watched = {name: Watched(tensor) for name, tensor in state_of(model).items()}
    moments = {name: {"exp_avg": Watched(watched[name]), "exp_avg_sq": Watched(watched[name]), "step": 3.0} for name in watched}
    stored = [*watched.values(), *(entry[key] for entry in moments.values() for key in ("exp_avg", "exp_avg_sq"))]

    nodes = []
    for first in range(0, RANKS, together):
        # Anew, for what has been measured of a tensor is not measured again.
        grown = plan.grow(watched)
        kept = grow_optimizer(plan, moments) if optimizer else None
        values = [value for entry in (kept or {}).values() for value in entry.values() if not isinstance(value, float)]
        for tensor in stored:
            tensor.asked.clear()
        for rank in range(first, min(first + together, RANKS)):
            for tensor in (*grown.values(), *values):
                size = math.prod(tensor.shape)
                piece = -(-size // RANKS)
                if rank * piece < size:
                    flat(tensor, rank * piece, min((rank + 1) * piece, size))
        nodes.append(sum(len(tensor.asked) * math.prod(tensor.shape[1:]) * 8 for tensor in stored))
    read = bytes_read(grown, kept, RANKS, together)
    return nodes, read.most, read.total


LAST_LAYER = {"depth": "last_layer"}
COPIED = {"optimizer_state": "grow", "new_moments": "copied"}
"""Moments of elements that share their source's gradient, and beside them those of others, of the next layer too."""


@pytest.mark.parametrize(
    ("optimizer", "together"),
    [(True, 2), *(pytest.param(*how, marks=pytest.mark.full) for how in ((False, 1), (False, 2), (True, 1)))],
)
@pytest.mark.parametrize(
    ("family", "name", "options"),
    [(family, name, LAST_LAYER) for family in TARGETS for name in GROWTHS]
    + [("gpt2", "aki", COPIED), ("gpt2", "fpi, paired", COPIED)],
)
def test_what_is_foretold_is_what_ranks_ask_for(family, name, options, optimizer, together):
    model, plan = grown_by(family, name, **options)
    nodes, most, total = asked_for(plan, model, optimizer, together)
    assert (most, total) == (max(nodes), sum(nodes))


@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize("optimizer", [False, True])
@pytest.mark.parametrize("name", INTERPOLATED)
@pytest.mark.parametrize(("family", "table"), [("gpt2", "transformer.wpe.weight"), ("bert", POSITIONS)])
def test_stretched_positions_are_foretold_whole(family, table, name, optimizer, together):
    model, plan = grown_by(family, name, depth="last_layer")
    nodes, most, total = asked_for(plan, model, optimizer, together)
    whole = math.prod(state_of(model)[table].shape) * 8 * (3 if optimizer else 1)
    assert max(nodes) < most <= max(nodes) + whole
    assert sum(nodes) < total <= sum(nodes) + len(nodes) * whole


def test_every_row_is_read_once_where_one_process_holds_all():
    model, plan = grown_by("bert", "fpi", depth="stack")
    state = state_of(model)
    read = bytes_read(plan.grow(state), None, 1)
    assert read.most == read.total == sum(math.prod(tensor.shape) * 8 for tensor in state.values())
