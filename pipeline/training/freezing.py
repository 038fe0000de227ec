"""What every optimizer here can do: leave parameter groups out of a step, or refuse it whole."""

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pipeline.deepspeed.masters import Master
from pipeline.growth.added_steps import ADDED_STEPS_LEFT
from pipeline.growth.state import default_value
from pipeline.growth.zero_sink import SCALARS
from pipeline.recipe.growth import AddedConfig
from pipeline.training.plan.schedule import added_share


class Freezable(torch.optim.Optimizer):
    """An optimizer that moves nothing of groups with `frozen` set: weights, moments and step counters.

    `requires_grad = False` alone would not do: a partition without a new gradient still moves by its
    momentum and its decay.
    """

    refuses: Callable[[], torch.Tensor | bool] | None = None
    """Called at the start of a step; where it returns True, or 1 on the device, nothing moves. ZeRO steps each group by itself,
    so it is asked several times a step and has to give every rank the same answer each time."""

    added: AddedConfig = AddedConfig()
    """The rate of the elements of which `added_steps_left` is kept."""

    row_groups: Mapping[torch.Tensor, Mapping[str, torch.Tensor]] = {}
    """Of each parameter with rows of different parameter groups, which of its first elements are of which; bool, flat."""

    moments: tuple[str, ...] = ()
    """Keys of what is kept of each element of every parameter."""
    counts_steps = False
    """Whether the steps of a parameter, or of its elements, are counted too."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._looks: dict[torch.Tensor, int] = {}
        """The steps after which it is looked again whether any are left of what a growth added."""
        self._split: set[torch.Tensor] = set()
        """The parameters of which everything is kept element by element for the sake of some rows."""

    def state_of(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what is kept of a parameter; where it was never stepped, of 0."""
        state = self.state[parameter]
        if self.counts_steps and "step" not in state:
            state["step"] = torch.tensor(0.0)
        for key in self.moments:
            if key not in state:
                state[key] = torch.zeros_like(parameter)
        return state

    def share_of(self, parameter: torch.Tensor) -> torch.Tensor | None:
        """Count a step of what a growth added, and return the share of its group's rate for each element; None for 1."""
        left = self.count_added(parameter)
        return None if left is None else added_share(left, *self.added_numbers)

    def count_added(self, parameter: torch.Tensor, moved: torch.Tensor | int = 1) -> torch.Tensor | None:
        """Count a step of what a growth added, where one was `moved`; return the steps that are left, None where none are.

        What an earlier growth added and has more steps left than the last growth gives begins that one's warmup.
        """
        left = self.state.get(parameter, {}).get(ADDED_STEPS_LEFT)
        return None if left is None else left.sub_(moved).clamp_(min=0, max=self.added.steps)

    @property
    def added_numbers(self) -> tuple[float, float, float]:
        """What `added_share` takes behind the steps that are left."""
        return float(self.added.warmup_steps), self.added.lr_ratio, float(self.added.decay_steps)

    @staticmethod
    def move(
        parameters: Sequence[torch.Tensor],
        updates: Sequence[torch.Tensor],
        shares: Sequence[torch.Tensor | None],
        group: Mapping[str, Any],
    ) -> None:
        """Take updates, in place, from parameters, which decay, at the group's rate times the shares of it."""
        whole = [number for number, share in enumerate(shares) if share is None]
        if whole:
            plain, steps = [parameters[number] for number in whole], [updates[number] for number in whole]
            torch._foreach_mul_(plain, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(plain, steps, alpha=-group["lr"])
        for parameter, update, share in zip(parameters, updates, shares, strict=True):
            if share is not None:
                rate = group["lr"] * share
                parameter.mul_(1 - rate * group["weight_decay"]).sub_(update.mul_(rate))

    def forget_added(self, groups: list[dict[str, Any]]) -> None:
        """Keep nothing more of what a growth added in parameters where no steps are left; to be called before a step."""
        for parameter in itertools.chain.from_iterable(group["params"] for group in groups):
            state = self.state.get(parameter, {})
            if ADDED_STEPS_LEFT not in state:
                continue
            # The device is waited for when it may be so, and not in each step.
            due = self._looks.get(parameter, 1) - 1
            if due == 0 and (due := min(int(state[ADDED_STEPS_LEFT].max()), self.added.steps)) == 0:
                del state[ADDED_STEPS_LEFT]
            self._looks[parameter] = due

    @contextmanager
    def with_separate_rows(self, groups: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        """Yield the groups to step where rows of other parameter groups are frozen, or have a rate and a decay of their own.

        Such rows are taken out as parameters of their own, with their share of the state, stepped like any other or not at
        all, and put back, also where the step fails. All other rows are stepped as if there were no such rows.
        """
        taken: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        try:
            yield self._separated(groups, taken)
        finally:
            for parameter, mask, some in taken:
                first_elements(parameter.detach(), mask)[mask] = some.detach()
                for key, value in self.state.pop(some).items():
                    first_elements(self.state[parameter][key], mask)[mask] = value

    def _separated(
        self, groups: list[dict[str, Any]], taken: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    ) -> list[dict[str, Any]]:
        """Return the groups to step; add to `taken` each parameter, the mask of rows in it, and the parameter of those."""
        stepped = []
        for group in groups:
            separate = separate_rows(group)
            if not separate:
                self._join_again(self._split.intersection(group["params"]))
            separated: dict[str, list[torch.Tensor]] = {name: [] for name in separate}
            for parameter in group["params"] if separate else ():
                if parameter.grad is None:
                    continue
                state = self.state_of(parameter)
                for key, value in state.items():
                    state[key] = torch.full_like(parameter, value.item()) if value.dim() == 0 else value.to(parameter.device)
                self._split.add(parameter)
                masks = self.row_groups.get(parameter, {})
                for name in filter(masks.__contains__, separate):
                    mask = masks[name].to(parameter.device)
                    some = nn.Parameter(first_elements(parameter.detach(), mask)[mask])
                    some.grad = first_elements(parameter.grad, mask)[mask]
                    self.state[some] = {key: first_elements(value, mask)[mask] for key, value in state.items()}
                    separated[name].append(some)
                    taken.append((parameter, mask, some))
            moving = {name: some for name, some in separated.items() if not separate[name]["frozen"]}
            stepped += [group | separate[name] | {"params": some} for name, some in moving.items()]
            if not separate or not group["rows"][group["block"]]["frozen"]:
                stepped.append(group)
        return stepped

    def _join_again(self, parameters: set[torch.Tensor]) -> None:
        """Keep as one number what is the same for all elements, as it is kept where a run goes on from a checkpoint."""
        self._split.difference_update(parameters)
        for parameter in filter(self.row_groups.__contains__, parameters):
            state, masks = self.state.get(parameter, {}), torch.stack([*self.row_groups[parameter].values()])
            # Padding counts for nothing.
            held = masks.any(0)
            for key in [key for key in SCALARS if key in state and state[key].dim()]:
                values = first_elements(state[key], held)[held.to(state[key].device)]
                alike = values[0].item()
                if not bool((values == alike).all()):
                    continue
                del state[key]
                if key == "step" or alike != default_value(key):
                    state[key] = torch.tensor(alike, device=parameter.device)

    def moving(self) -> list[dict[str, Any]]:
        """The groups that this step moves; where the answer lies on the device, the host waits for it here."""
        if self.refuses is not None and bool(self.refuses()):
            return []
        return self.unfrozen()

    def unfrozen(self) -> list[dict[str, Any]]:
        """The groups that a step moves which is not refused."""
        return [group for group in self.param_groups if not group["frozen"]]


def gradients_of(parameters: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the gradients of the parameters that have one."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def separate_rows(group: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the parameter groups whose rows are not stepped as those of the optimizer group's own are, and how they are.

    Of a group whose parameters have rows of different parameter groups `rows` has `frozen`, `lr` and `weight_decay` of each.
    """
    rows = group.get("rows", {})
    own = rows.get(group.get("block"))
    return {name: each for name, each in rows.items() if each != own and not (each["frozen"] and own["frozen"])}


def first_elements(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the elements that a mask of `row_groups` is of, flat: padding may stand behind them."""
    return values.view(-1)[: len(mask)]


class RowGroups:
    """Which rows of a parameter are of which parameter group; those of a frozen group have no gradient.

    Such parameters are matrices of tokens with new ones among them, and fused experts.
    """

    def __init__(self, parameter: nn.Parameter, shape: tuple[int, ...], rows: Mapping[str, torch.Tensor]) -> None:
        """`shape` is that of the whole parameter; `rows` are the numbers of each group's rows, by the group's name."""
        self.width = math.prod(shape[1:])
        self.masks = {name: torch.zeros(shape[0], dtype=torch.bool) for name in rows}
        for name, numbers in rows.items():
            self.masks[name][numbers] = True
        self._frozen: torch.Tensor | None = None
        # Before ranks' gradients are summed: neither a norm nor a momentum then knows of the others.
        parameter.register_hook(self._of_learning)

    def learn(self, groups: Collection[str]) -> None:
        """Let the rows of these groups learn."""
        frozen = torch.stack([mask for name, mask in self.masks.items() if name not in groups] or [torch.zeros(1)])
        self._frozen = frozen.any(0) if bool(frozen.any()) else None

    def _of_learning(self, gradient: torch.Tensor) -> torch.Tensor:
        if self._frozen is None:
            return gradient
        self._frozen = self._frozen.to(gradient.device)
        return gradient.masked_fill(self._frozen.view(-1, *[1] * (gradient.dim() - 1)), 0)


def elements_of(masters: Iterable[Master], rows: Mapping[str, RowGroups]) -> dict[torch.Tensor, dict[str, torch.Tensor]]:
    """Return, of each master with rows of such parameters, which of its elements are of which group; bool, flat.

    A master may begin and end within a row. Padding behind the last row is left out.
    """
    found: dict[torch.Tensor, dict[str, torch.Tensor]] = {}
    for master in masters:
        slices = [held for held in master.slices if held.name in rows and held.numel]
        # A master that lies on a disk is empty.
        size = max((held.end for held in slices), default=0)
        masks: dict[str, torch.Tensor] = {}
        for held in slices:
            width = rows[held.name].width
            first, last = held.start // width, -(-held.stop // width)
            begin = held.start - first * width
            for name, mask in rows[held.name].masks.items():
                elements = mask[first:last].repeat_interleave(width)[begin : begin + held.numel]
                if bool(elements.any()):
                    masks.setdefault(name, torch.zeros(size, dtype=torch.bool))[held.place : held.end] = elements
        if masks:
            found[master.stepped] = {name: mask.to(master.stepped.device) for name, mask in masks.items()}
    return found
