"""What share of a token each expert of a mixture gets: as if all were chosen alike, or as a router chooses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.families.graph import Experts, Mlp
from pipeline.growth.state import Source, State
from pipeline.growth.streamed_model import streamed_model


@dataclass(frozen=True, slots=True)
class Share:
    """Of one expert, over all tokens; a gate is 0 where the expert is not chosen."""

    mean: float
    """The mean of its gate."""
    square: float
    """The mean of its gate's square."""


@dataclass(frozen=True, slots=True)
class Gates:
    """The shares of the experts, measured."""

    tokens: int
    """Over how many."""
    layers: Sequence[Sequence[Share]]
    """By layer, and by expert; none of a layer without experts."""

    def record(self) -> dict[str, Any]:
        """Return what a certificate says of them."""
        return {
            "from": "held-out text",
            "tokens": self.tokens,
            "mean": [[share.mean for share in layer] for layer in self.layers],
            "mean_square": [[share.square for share in layer] for layer in self.layers],
        }


def uniform(body: Experts) -> Share:
    """Return the share of an expert where each is chosen as often and all that are chosen have the same gate.

    k of E experts are chosen. Renormalized, a gate is 1 / k: the mean is (k / E) (1 / k) = 1 / E, and that of the square
    (k / E) (1 / k^2) = 1 / (k E). Else it is 1 / E.
    """
    chosen = body.per_token / len(body.each)
    gate = body.scaling / (body.per_token if body.renormalized else len(body.each))
    return Share(chosen * gate, chosen * gate**2)


@torch.no_grad()
def measured(source: Source, bodies: Sequence[tuple[int, Experts, Mlp]], mixture: State, input_ids: torch.Tensor) -> Gates:
    """Return the shares of the experts that a dense model's FFNs become, over tokens [sequences, S] that it reads.

    `bodies` are the layers with experts: number, mixture, and the network that it is made of; `mixture` holds their routers.
    In float64, so that all processes find the same.
    """
    family, config = source.family, source.config
    model = streamed_model(family, config, source.state, torch.float64)
    found: list[Sequence[Share]] = [()] * config.num_hidden_layers

    def watch(number: int, body: Experts, name: str) -> None:
        router = mixture[body.router.weight]
        weights = router.rows(0, router.shape[0]).double()

        def before(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            scores = arguments[0].flatten(0, -2) @ weights.T
            largest, chosen = scores.softmax(dim=-1).topk(body.per_token, dim=-1)
            if body.renormalized:
                largest = largest / largest.sum(dim=-1, keepdim=True)
            gates = torch.zeros_like(scores).scatter_(-1, chosen, largest * body.scaling)
            shares = zip(gates.mean(dim=0).tolist(), gates.square().mean(dim=0).tolist(), strict=True)
            found[number] = [Share(*share) for share in shares]

        model.get_submodule(name).register_forward_pre_hook(before)

    for number, body, network in bodies:
        watch(number, body, network.inputs[0].weight.removesuffix(".weight"))
    model(**family.inputs(input_ids))
    return Gates(input_ids.numel(), found)
