"""What the routers of a mixture of experts learn by beside the loss of tokens, and how evenly they share tokens out.

Of every layer with experts that runs, over the N tokens of a step on all ranks, with E experts of which k are chosen:

    f_e = (times that e was chosen) / N      P_e = (1 / N) sum of p_e(x)      x the router's logits of a token
    load-balancing loss  L = E sum_e f_e P_e          (Switch Transformers, 2101.03961, eq. 4 to 6; k where all is even)
    z-loss               Z = (1 / N) sum of log(sum_e exp x_e)^2                        (ST-MoE, 2202.08906, eq. 5)

and of the layers the mean. Choices have no gradient, so that of L is that of E sum_e f_e p_e(x) / N, token by token. It needs
f before the step's last micro-batch has run. f of the step before stands in: it is the same whatever the number of ranks and
micro-batches, which the f of a micro-batch, or of those so far, is not. What is reported of a step is exact.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PretrainedConfig

from pipeline.common.errors import UserError
from pipeline.families import graph_of
from pipeline.families.graph import Experts
from pipeline.families.routing import Router, grouped_refusal, routers
from pipeline.recipe import Recipe, RouterConfig
from pipeline.runs.records import ROUTER_KEYS
from pipeline.training import distributed
from pipeline.training.engine import TrainedModel


def check_experts(recipe: Recipe, configs: dict[int, PretrainedConfig], dtype: torch.dtype) -> None:
    """Refuse what a recipe asks of experts that the run's models, which compute in `dtype`, cannot have; raises UserError."""
    graphs = [graph_of(config) for config in configs.values()]
    found = [router.node for graph in graphs for router in routers(graph)]
    given = {"router": recipe.router is not None, "experts_implementation": recipe.experts_implementation != "grouped_mm"}
    for key in [key for key, is_given in given.items() if is_given and not found]:
        raise UserError(f"{key}: no model of the run is a mixture of experts; leave it out")
    if recipe.router is not None and recipe.router.router_bias_update_rate and not any(node.selection_bias for node in found):
        raise UserError("router.router_bias_update_rate: no model of the run chooses experts by a bias; leave the key out")
    for graph in graphs if recipe.experts_implementation == "grouped_mm" else ():
        reason = grouped_refusal(graph, dtype)
        if reason is not None:
            raise UserError(f"experts_implementation: grouped_mm {reason}; choose other sizes, or set it to eager")


def router_weights(given: RouterConfig | None, config: PretrainedConfig) -> tuple[float, float]:
    """Return the weights of a model's load-balancing loss, its configuration's own where none is given, and of its z-loss."""
    given = given or RouterConfig()
    own = getattr(config, "router_aux_loss_coef", None) or 0.0
    return own if given.router_aux_loss_coef is None else given.router_aux_loss_coef, given.router_z_loss_coef


class Balance:
    """The routers of one model in training."""

    @classmethod
    def of(cls, model: TrainedModel, config: RouterConfig | None, loads: Sequence[Sequence[int]] | None) -> "Balance | None":
        """Watch a model's routers; None of a dense model. `loads` are those of the step before, where there was one."""
        found = list(routers(model.family.graph(model.config)))
        return cls(model, found, config, loads) if found else None

    def __init__(
        self, model: TrainedModel, found: list[Router], config: RouterConfig | None, loads: Sequence[Sequence[int]] | None
    ) -> None:
        self._routers = found
        self._modules = [model.module.get_submodule(router.module) for router in found]
        self._balancing, self._z = router_weights(config, model.config)
        self._bias_rate = 0.0 if config is None else config.router_bias_update_rate
        self._experts = len(found[0].node.each)
        nothing = torch.zeros(len(found), self._experts, dtype=torch.float64, device=distributed.device())
        # As if all had been even, where there was no step before: of that the loss has no gradient.
        self._loads = nothing + 1.0 if loads is None else nothing + nothing.new_tensor(loads)
        self._per_token = nothing.new_tensor([router.node.per_token for router in found])
        self._sums = self._zeros()
        self._watching = False
        self._seen: dict[int, tuple[torch.Tensor, ...]] = {}
        for number, module in enumerate(self._modules):
            module.register_forward_hook(self._see(number))

    def _zeros(self) -> torch.Tensor:
        """Of each router: by expert how often it was chosen, by expert the sum of its probabilities, and the sum of squares."""
        return self._loads.new_zeros(len(self._routers), 2 * self._experts + 1)

    def _see(self, number: int) -> Callable[[nn.Module, tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]], None]:
        def see(_: nn.Module, __: tuple[torch.Tensor, ...], output: tuple[torch.Tensor, ...]) -> None:
            # Layers that are run again for the backward pass, and evaluations, are not watched.
            if self._watching:
                self._seen[number] = output

        return see

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch a micro-batch on its way through the model."""
        self._seen.clear()
        self._watching = True
        try:
            yield
        finally:
            self._watching = False

    @property
    def loads(self) -> list[list[int]]:
        """How often each expert of each layer was chosen in the last step that ran the layer; waits for the device."""
        return self._loads.long().tolist()

    def loss(self, tokens: int) -> torch.Tensor | float:
        """Return the share of the micro-batch just watched in what is added to the loss of a step of so many tokens.

        Routers that stand still have none: no gradient comes from them.
        """
        added: torch.Tensor | float = 0.0
        weighed = self._balancing > 0 or self._z > 0
        shares = self._loads / self._loads.sum(1, keepdim=True)
        for number, (logits, _, chosen) in self._seen.items():
            node = self._routers[number].node
            learns = weighed and logits.requires_grad and bool(self._modules[number].get_parameter("weight").requires_grad)
            with torch.set_grad_enabled(learns):
                probabilities = _probabilities(logits, node)
            with torch.set_grad_enabled(learns and self._z > 0):
                squares = logits.logsumexp(-1).square()
            if learns:
                balancing = self._experts * node.per_token * (shares[number].to(logits.dtype) * probabilities).sum()
                added = added + (self._balancing * balancing + self._z * squares.sum()) / (tokens * len(self._seen))
            self._add(number, chosen, probabilities.detach(), squares.detach())
        self._seen.clear()
        return added

    def _add(self, number: int, chosen: torch.Tensor, probabilities: torch.Tensor, squares: torch.Tensor) -> None:
        sums, flat = self._sums[number], chosen.flatten()
        sums[: self._experts].scatter_add_(0, flat, torch.ones_like(flat, dtype=sums.dtype))
        sums[self._experts : -1] += probabilities.sum(0, dtype=sums.dtype)
        sums[-1] += squares.sum(dtype=sums.dtype)

    def add_up(self, loss: torch.Tensor) -> dict[str, torch.Tensor]:
        """End a step: add up its loss, in place, and what its routers did over all ranks; return what is recorded of them.

        Every number is on the device. Of layers that did not run the loads stay those of the last step that ran them.
        """
        together = torch.cat([loss.reshape(1), self._sums.flatten()])
        distributed.add_up(together)
        loss.copy_(together[0])
        sums = together[1:].view_as(self._sums)
        chosen, probable, squares = sums[:, : self._experts], sums[:, self._experts : -1], sums[:, -1]
        ran = chosen.sum(1) > 0
        self._loads = torch.where(ran.unsqueeze(1), chosen, self._loads)
        self._ran = ran
        self._sums = self._zeros()
        tokens = (chosen.sum(1) / self._per_token).clamp(min=1)
        balancing = self._experts * (chosen * probable).sum(1) / tokens.square()
        shares = chosen / chosen.sum(1, keepdim=True).clamp(min=1)
        entropies = -torch.xlogy(shares, shares).sum(1) / math.log(max(self._experts, 2))
        # Where no layer with experts ran there is nothing to record: 0 / 0.
        relative, count = self._experts * shares, ran.sum()
        ran_any = torch.where(count > 0, 0.0, math.nan)
        values = (
            balancing.sum() / count,
            (squares / tokens).sum() / count,
            relative.amax(1).max() + ran_any,
            torch.where(ran, relative.amin(1), math.inf).min() + ran_any,
            entropies.sum() / count,
        )
        return dict(zip(ROUTER_KEYS, values, strict=True))

    def move_biases(self, norm: torch.Tensor | float) -> None:
        """Balance without a loss after a step (2408.15664, algorithm 1): b_e += u sign(mean of the loads - load of e).

        `norm` is that of the step's gradient: where it is no number nothing else has moved either.
        """
        if not self._bias_rate:
            return
        norm = torch.as_tensor(norm, device=self._ran.device)
        # A negative one stands for NaN.
        moves = self._ran & (norm >= 0) & (norm < math.inf)
        for router, module, loads, moved in zip(self._routers, self._modules, self._loads, moves, strict=True):
            if router.node.selection_bias is not None and module.weight.requires_grad:
                bias = module.get_buffer(router.node.selection_bias.rpartition(".")[-1])
                bias += (self._bias_rate * moved * torch.sign(loads.mean() - loads)).to(bias.dtype)


def _probabilities(logits: torch.Tensor, node: Experts) -> torch.Tensor:
    """What a router gives each expert, [tokens, experts], of which the sum is 1.

    Sigmoids are divided by their sum (DeepSeek-V3, 2412.19437, eq. 19).
    """
    if node.gate == "softmax":
        return logits.softmax(-1)
    scores = logits.sigmoid()
    return scores / scores.sum(-1, keepdim=True)
