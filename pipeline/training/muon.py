"""Muon over partitions: matrices are put together, orthogonalized on one rank each, and handed back in slices.

DeepSpeed's own Muon orthogonalizes inside its ZeRO optimizers, before clipping (so that the gradient norm is
one of updates) and with momentum that goes on in frozen groups. Here every ZeRO stage and offload runs the
same steps, after clipping as every other optimizer.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed

from pipeline.deepspeed.zero_layout import PartitionSlice
from pipeline.families.tensors import Tensor, numel
from pipeline.growth.added_steps import ADDED_STEPS_LEFT
from pipeline.growth.moments import muon_scale
from pipeline.training import distributed
from pipeline.training.adamw import FreezableAdamW
from pipeline.training.freezing import first_elements, gradients_of, separate_rows

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_TOGETHER = 2**26
"""Elements of the matrices of one shape that are multiplied at once: small ones alone do not fill a GPU."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """How a parameter is stored: its shape, which axis is the output's, and what lies side by side along an axis."""

    shape: tuple[int, ...]
    output_axis: int
    fused: tuple[int, ...] = ()
    """Rows of each of the matrices in one tensor (query, key and value), which are orthogonalized by themselves."""
    fused_axis: int = 0
    within: int = 1
    """These matrices lie side by side within each of so many blocks of rows (GPT-NeoX: heads)."""
    spectral: bool = False
    """Whether steps of matrices with fewer outputs than inputs are smaller too (`width_rates: spectral`)."""

    @classmethod
    def of(cls, tensor: Tensor, sizes: Mapping[str, int], *, spectral: bool = False) -> "Matrix":
        """The form of one of a model's matrices."""
        counts = [len(axis.parts) for axis in tensor.axes]
        axis_number = counts.index(max(counts))
        axis = tensor.axes[axis_number]
        within = numel(axis.parts[0].ports[: axis.outer], sizes)
        if within > 1 and axis_number > 0:
            raise RuntimeError(f"{tensor.name}: Muon knows blocks of rows, and not of columns")
        fused = tuple(numel(part.ports, sizes) // within for part in axis.parts) if len(axis.parts) > 1 else ()
        return cls(tensor.shape(sizes), 1 if tensor.roles[0] == "in" else 0, fused, axis_number, within, spectral)

    @property
    def numel(self) -> int:
        """Elements in all."""
        return math.prod(self.shape)

    def matrices_in(self, values: torch.Tensor) -> list[tuple[torch.Tensor, float]]:
        """Return the matrices in flat values, as views, and the scale of each one's step.

        That is sqrt(max(1, outputs / inputs)), or sqrt(outputs / inputs) where `spectral`, the norm of updates in condition 1
        of Yang, Simon and Bernstein 2023 (2310.17813). A matrix whose rows stand in blocks is a view [blocks, rows, columns].
        """
        whole = values.view(self.shape)
        if not self.fused:
            return [(whole, self._scale(*self.shape))]
        blocks = whole.unflatten(self.fused_axis, (self.within, -1))
        found = []
        for matrix, rows in zip(blocks.split(self.fused, self.fused_axis + 1), self.fused, strict=True):
            sides = [*self.shape]
            sides[self.fused_axis] = rows * self.within
            plain = matrix.flatten(self.fused_axis, self.fused_axis + 1) if self.within == 1 else matrix
            found.append((plain, self._scale(*sides)))
        return found

    def _scale(self, rows: int, columns: int) -> float:
        outputs, inputs = (rows, columns) if self.output_axis == 0 else (columns, rows)
        return muon_scale(outputs, inputs, spectral=self.spectral)


def newton_schulz(matrices: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return U S V^T with S near 1 for each matrix U V^T of [..., m, n], computed in `dtype` (Jordan et al. 2024, Muon)."""
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = (x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)).to(dtype).reshape(-1, *x.shape[-2:])
    for _ in range(_ITERATIONS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).view(matrices.shape)


def orthogonalize(scaled: Iterable[tuple[torch.Tensor, float]], dtype: torch.dtype) -> None:
    """Give matrices singular values near 1, times the number beside each, in place: those of a shape together."""
    alike: dict[tuple[torch.Size, float], list[torch.Tensor]] = {}
    for matrix, scale in scaled:
        alike.setdefault((matrix.shape, scale), []).append(matrix)
    for (shape, scale), matrices in alike.items():
        at_once = max(1, _TOGETHER // shape.numel())
        for begin in range(0, len(matrices), at_once):
            some = matrices[begin : begin + at_once]
            # Rows in blocks are one matrix.
            matrices_of = torch.stack(some).flatten(1, -2)
            stepped = newton_schulz(matrices_of, dtype).to(some[0].dtype) * scale
            torch._foreach_copy_(some, list(stepped.view(len(some), *shape).unbind()))


class FreezableMuon(FreezableAdamW):
    """Groups with `muon` set step by orthogonalized momentum (Nesterov's), all others by AdamW.

    `locate` has to be called with this rank's slices before the first step.
    """

    def __init__(
        self, groups: list[dict[str, Any]], matrices: Mapping[str, Matrix], dtype: torch.dtype, **options: Any
    ) -> None:
        super().__init__(groups, **options)
        self._matrices = matrices
        self._dtype = dtype
        self._exchanges: dict[torch.Tensor, _Exchange] = {}

    def locate(self, masters: Iterable[tuple[torch.Tensor, list[PartitionSlice]]]) -> None:
        """Take in what of which matrices each stepped tensor holds on this rank.

        A collective call, of the same tensors on all ranks.
        """
        held = [(stepped, [each for each in slices if each.name in self._matrices]) for stepped, slices in masters]
        of_all = distributed.gathered([slices for _, slices in held])
        for number, (stepped, _) in enumerate(held):
            slices = [rank[number] for rank in of_all]
            if any(slices):
                self._exchanges[stepped] = _Exchange(slices, self._matrices)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update the groups that are not frozen; a collective call where matrices lie in slices."""
        moving = self.moving()
        self.forget_added([group for group in moving if group["muon"]])
        self.step_groups([group for group in moving if not group["muon"]])
        for group in moving:
            if group["muon"]:
                for some in _together([parameter for parameter in group["params"] if parameter.grad is not None]):
                    self._step_matrices(some, group)

    def _step_matrices(self, parameters: Sequence[torch.Tensor], group: dict[str, Any]) -> None:
        separate = separate_rows(group)
        befores, updates = [], []
        for parameter, gradient in zip(parameters, gradients_of(parameters), strict=True):
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            befores.append(self._kept(parameter) if separate else {})
            momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
            # Nesterov's.
            updates.append(gradient.lerp(momentum, group["momentum"]).view(-1))
        exchanges = [self._exchanges[parameter] for parameter in parameters]
        whole = [exchange.gather(update) for exchange, update in zip(exchanges, updates, strict=True)]
        # Without ZeRO each matrix is a parameter of its own, and those of all layers are multiplied at once all the same.
        orthogonalize((each for matrices in whole for each in matrices.scaled), self._dtype)
        for parameter, exchange, update, matrices, before in zip(parameters, exchanges, updates, whole, befores, strict=True):
            stepped = exchange.hand_back(matrices, update).view(parameter.shape)
            if separate:
                self._move_rows(parameter, stepped, before, group)
            else:
                self.move([parameter], [stepped], [self.share_of(parameter)], group)

    def _kept(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        """A copy of what the state holds of each element, for rows that are frozen and count no steps."""
        state = self.state[parameter]
        if ADDED_STEPS_LEFT in state:
            state[ADDED_STEPS_LEFT] = state[ADDED_STEPS_LEFT].expand_as(parameter).clone()
        return {key: state[key].clone() for key in ("momentum_buffer", ADDED_STEPS_LEFT) if key in state}

    def _move_rows(
        self, parameter: torch.Tensor, update: torch.Tensor, before: Mapping[str, torch.Tensor], group: dict[str, Any]
    ) -> None:
        """Move a matrix, which is orthogonalized whole, by the rates of its rows."""
        share = self.share_of(parameter)
        for name, mask in self.row_groups.get(parameter, {}).items():
            own = group["rows"][name]
            if own["frozen"]:
                for key, then in before.items():
                    first_elements(self.state[parameter][key], mask)[mask] = first_elements(then, mask)[mask]
                continue
            values = first_elements(parameter, mask)
            rate = own["lr"] if share is None else own["lr"] * first_elements(share, mask)[mask]
            values[mask] = values[mask] * (1 - rate * own["weight_decay"]) - rate * first_elements(update, mask)[mask]


def _together(parameters: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Parameters in turn, so many at a time that copies of their elements are few beside a model's."""
    some: list[torch.Tensor] = []
    for parameter in parameters:
        if some and sum(each.numel() for each in some) + parameter.numel() > _TOGETHER:
            yield some
            some = []
        some.append(parameter)
    if some:
        yield some


class _Exchange:
    """Takes one master's matrices from slices to whole ones, each on the rank that it is dealt to, and back."""

    def __init__(self, slices: list[list[PartitionSlice]], matrices: Mapping[str, Matrix]) -> None:
        rank, ranks = distributed.rank(), len(slices)
        names = list(dict.fromkeys(each.name for held in slices for each in held))
        whole = all(each.numel == matrices[each.name].numel for held in slices for each in held)
        # Without ZeRO every rank has every matrix whole, and all do the same.
        replicated = whole and all(len(held) == len(names) for held in slices)
        owners = {name: rank if replicated else number % ranks for number, name in enumerate(names)}
        self._exchanged = ranks > 1 and not replicated
        self._matrices = {name: matrices[name] for name in names if owners[name] == rank}
        self._mine = [each for owner in range(ranks) for each in slices[rank] if owners[each.name] == owner]
        sources = [rank] if replicated else range(ranks)
        self._owned = [each for source in sources for each in slices[source] if owners[each.name] == rank]
        self._sent = [sum(each.numel for each in slices[rank] if owners[each.name] == owner) for owner in range(ranks)]
        self._received = [sum(each.numel for each in held if owners[each.name] == rank) for held in slices]

    def gather(self, update: torch.Tensor) -> "_Whole":
        """Return the matrices that are dealt to this rank, of a flat master's update.

        A collective call where they lie in slices.
        """
        sent = torch.cat([update[each.place : each.end] for each in self._mine] or [update[:0]]).to(distributed.device())
        received = sent
        if self._exchanged:
            received = sent.new_empty(sum(self._received))
            torch.distributed.all_to_all_single(received, sent, self._received, self._sent)
        sizes = [matrix.numel for matrix in self._matrices.values()]
        whole = dict(zip(self._matrices, received.new_empty(sum(sizes)).split(sizes), strict=True))
        slices = received.split([each.numel for each in self._owned])
        places = [whole[each.name][each.start : each.stop] for each in self._owned]
        # Copies of many slices are one kernel each way.
        _copy(places, slices)
        scaled = [each for name, matrix in self._matrices.items() for each in matrix.matrices_in(whole[name])]
        return _Whole(sent, received, slices, places, scaled)

    def hand_back(self, whole: "_Whole", update: torch.Tensor) -> torch.Tensor:
        """Return this rank's slices of orthogonalized matrices in their places of a flat master; likewise collective."""
        _copy(whole.slices, whole.places)
        if self._exchanged:
            torch.distributed.all_to_all_single(whole.sent, whole.received, self._sent, self._received)
        result = torch.zeros_like(update)
        places = [result[each.place : each.end] for each in self._mine]
        _copy(places, whole.sent.to(result.device).split([each.numel for each in self._mine]))
        return result


@dataclass(frozen=True, slots=True)
class _Whole:
    """Whole matrices on the rank that they are dealt to."""

    sent: torch.Tensor
    """This rank's slices, one after the other."""
    received: torch.Tensor
    """Those of the matrices that are dealt to it."""
    slices: Sequence[torch.Tensor]
    """Views of `received`."""
    places: Sequence[torch.Tensor]
    """Views of the matrices, where each slice belongs."""
    scaled: Sequence[tuple[torch.Tensor, float]]
    """Views of the matrices as they are orthogonalized, with the scale of each."""


def _copy(into: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
    if into:
        torch._foreach_copy_(list(into), list(values))
