"""A dense model read as a mixture of experts: copies of its feed-forward networks, or of pieces of them, behind a new router.

Nothing is copied: each expert's tensors are read from the dense model's. With gates that sum to 1 over the experts that are
chosen, experts that are alike compute what one of them does, whatever the router says (sparse upcycling, Komatsuzaki et al.
2023). Pieces: all G pieces of a network have one router row, so that they are chosen together (virtual groups, He et al. 2024),
and write G times as much.
"""

from dataclasses import replace

import torch
from transformers import PretrainedConfig

from pipeline.families import EXPERT_KEYS, family_of, has_key, upcycled_config
from pipeline.families.graph import Experts, Mlp, Model
from pipeline.growth.initialization import initialized
from pipeline.growth.state import Constant, Rows, Source, State
from pipeline.recipe import TargetConfig


class Piece:
    """Some rows and columns of a tensor, times a factor."""

    def __init__(self, tensor: Rows, rows: slice, columns: slice, factor: float = 1.0) -> None:
        self.shape = (rows.stop - rows.start, columns.stop - columns.start)
        self.tensor, self._first, self._columns, self._factor = tensor, rows.start, columns, factor

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop)."""
        values = self.tensor.rows(self._first + start, self._first + stop)[:, self._columns]
        return values if self._factor == 1.0 else values * self._factor


class Repeated:
    """Each row of a tensor several times, one behind the other."""

    def __init__(self, tensor: Rows, times: int) -> None:
        self.shape = (tensor.shape[0] * times, *tensor.shape[1:])
        self.tensor, self._times = tensor, times

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop)."""
        first, last = start // self._times, -(-stop // self._times)
        whole = self.tensor.rows(first, last).repeat_interleave(self._times, dim=0)
        return whole[start - first * self._times : stop - first * self._times]


def upcycled(source: Source, wanted: TargetConfig | PretrainedConfig, seed: int, where: str) -> Source:
    """Return a dense source as a mixture of the model_type and the experts that the target names, at its own sizes.

    Without an optimizer's state. Raises UserError naming the key, with `where` before it, where its family becomes no such
    mixture.
    """
    named = isinstance(wanted, TargetConfig)
    # A class keeps what its file says besides.
    sizes = {key: getattr(wanted, key) if named or has_key(type(wanted), key) else None for key in EXPERT_KEYS}
    config = upcycled_config(source.config, wanted.model_type, sizes, where)
    family = family_of(config)
    dense, graph = source.family.graph(source.config), family.graph(config)
    state = {name: source.state.get(name, tensor) for name, tensor in initialized(family, config, seed).items()}
    for old, new in zip(dense.layers, graph.layers, strict=True):
        state |= _experts(old.branches[-1].body, new.branches[-1].body, source.state, state)
    body = graph.layers[0].branches[-1].body
    said = [f"each FFN is read as {len(body.each)} experts, of which a token goes through {body.per_token}"]
    if body.shared is not None:
        said.append("the expert that every token goes through is new and writes nothing at first")
    if body.per_token == pieces_of(dense, graph):
        said.append(
            "a token goes through one copy of the FFN, whose gate is 1 whatever the router says: only a loss on the "
            "router itself teaches it"
        )
    return replace(
        source, config=config, family=family, state=state, optimizer=None, remarks=(*source.remarks, *said), dense=source
    )


def pieces_of(dense: Model, mixture: Model) -> int:
    """Return into how many experts a dense model's FFN is cut."""
    network = mixture.layers[0].branches[-1].body.each[0]
    return dense.sizes["ffn"] // network.last.into.size(mixture.sizes)


def _experts(network: Mlp, body: Experts, dense: State, initial: State) -> dict[str, Rows]:
    """The tensors of a mixture: expert r G + p is piece p of copy r."""
    channels, units = dense[network.last.weight].shape
    size = initial[body.each[0].last.weight].shape[1]
    pieces, state = units // size, {}
    stream = slice(0, channels)
    for number, expert in enumerate(body.each):
        cut = slice(number % pieces * size, (number % pieces + 1) * size)
        for old, new in zip([*network.inputs, network.last], [*expert.inputs, expert.last], strict=True):
            tensor = dense[old.weight]
            if pieces > 1:
                written = new is expert.last
                tensor = Piece(tensor, stream, cut, float(pieces)) if written else Piece(tensor, cut, stream)
            state[new.weight] = tensor
    if pieces > 1:
        state[body.router.weight] = Repeated(
            Piece(initial[body.router.weight], slice(0, len(body.each) // pieces), stream), pieces
        )
    if body.shared is not None:
        state[body.shared.last.weight] = Constant(initial[body.shared.last.weight].shape, 0.0)
    return state
