"""What of a grown model can never learn: both sides of a product are zero, so that neither has a gradient, ever.

For y = W x the gradients are dW = dy x^T and dx = W^T dy. Of each value and of each gradient the walk keeps whether it is zero
for every input, forwards and backwards through the graph, and counts whatever has had a gradient as no longer zero, until
nothing changes. The source's own numbers count as not zero, and activations as passing zero as zero and its gradient (GELU,
SiLU, tanh; a ReLU does not pass it).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce

import numpy as np
import torch

from pipeline.families.graph import Attention, Branch, Experts, Layer, Mlp, Stack, head_norms
from pipeline.families.primitives import Linear, Norm, Rotary
from pipeline.families.tensors import Axis, Tensor
from pipeline.growth.growth_plan import GrowthPlan
from pipeline.growth.index_map import INIT, SMALL, ZERO

Mask = np.ndarray
"""Booleans: where something is not zero."""


@dataclass(frozen=True, slots=True)
class Dead:
    """Indices of a tensor's storage axis at which nothing ever has a gradient."""

    tensor: Tensor
    axis: int
    count: int

    def __str__(self) -> str:
        """How many rows, columns or elements."""
        kind = "elements" if len(self.tensor.axes) == 1 else ("rows", "columns")[self.axis]
        return f"{self.count} {kind} of {self.tensor.name}"


@dataclass(eq=False, slots=True)
class _Flow:
    """A value of the forward pass, and the loss's derivative by it."""

    value: Mask
    gradient: Mask

    def reshape(self, *shape: int) -> "_Flow":
        """The same in another shape; the two share their gradient."""
        return _Flow(self.value.reshape(shape), self.gradient.reshape(shape))


@dataclass(eq=False, slots=True)
class _Parameter:
    """A tensor's elements that are not zero, as boxes: one mask a storage axis."""

    tensor: Tensor
    held: Sequence[tuple[Mask, ...]]
    trained: dict[str, tuple[Mask, ...]] = field(default_factory=dict)
    """By what uses it: what has a gradient there."""

    @property
    def boxes(self) -> list[tuple[Mask, ...]]:
        return [*self.held, *self.trained.values()]

    @property
    def vector(self) -> Mask:
        """Of a gain or bias."""
        return _union(mask for (mask,) in self.boxes)

    @property
    def reached(self) -> int:
        return sum(int(mask.sum()) for box in self.trained.values() for mask in box)

    def dead(self) -> list[Dead]:
        """What has had no gradient, by axis."""
        # A box without outputs or without inputs is empty.
        boxes = [box for box in self.trained.values() if all(mask.any() for mask in box)]
        found = []
        for axis in range(len(self.tensor.axes)):
            reached = _union(box[axis] for box in boxes) if boxes else np.zeros(len(self.held[0][axis]), dtype=bool)
            if not reached.all():
                found.append(Dead(self.tensor, axis, int((~reached).sum())))
        return found


class Deadlock:
    """The walk through a target's graph."""

    def __init__(self, plan: GrowthPlan) -> None:
        self._plan, self.graph = plan, plan.graph
        # Layers that are made alike learn alike: what one writes into the stream the next one reads.
        self._layers: list[list[Layer]] = []
        for stack, numbers in zip(plan.graph.stacks, plan.graph.ranges, strict=True):
            alike: dict[tuple[int, bool], Layer] = {}
            for number, layer in zip(numbers, stack.layers, strict=True):
                maps = plan.index_maps.get(layer.branches[0].writers[0].weight)
                alike.setdefault((id(maps), plan.layers[number].zero_output), layer)
            self._layers.append(list(alike.values()))
        self._parameters: dict[str, _Parameter] = {}
        self._tape: list[Callable[[], None]] = []

    def dead(self) -> list[Dead]:
        """Return what never has a gradient, of one of the layers that are made alike."""
        before = -1
        while True:
            self._tape = []
            for output in self._outputs():
                output.gradient[:] = True
            for back in reversed(self._tape):
                back()
            dead = [one for parameter in self._parameters.values() for one in parameter.dead()]
            reached = sum(each.reached for each in self._parameters.values()) if dead else before
            if reached == before:
                return dead
            before = reached

    def _outputs(self) -> list[_Flow]:
        head = self.graph.head
        for number, stack in enumerate(self.graph.stacks):
            stream = self._stack(number, stack)
            x = self._norm(stack.final, stream)
            if stack is self.graph.encoder:
                self._encoded = x
        if head.transform is not None:
            x = self._linear(head.transform, x)
        logits = self._product(head.matrix, self._norm(head.norm, x), into=1)
        outputs = [logits, *(self._bias(bias, logits) for bias in head.biases)]
        if self.graph.pooler is not None:
            outputs.append(self._linear(self.graph.pooler.classes, self._linear(self.graph.pooler.dense, stream)))
        return outputs

    # --- nodes ------------------------------------------------------------------------------------

    def _stack(self, number: int, stack: Stack) -> _Flow:
        """What the layers of a stack give."""
        written = []
        for table in stack.embeddings:
            rows = np.ones(self.graph.sizes[table.port], dtype=bool)
            # Stacks may share a table.
            use = f"lookup of stack {number}"
            written.append(self._product(table.weight, _Flow(rows, np.zeros_like(rows)), into=0, use=use))
        stream = self._norm(stack.embedding_norm, reduce(self._sum, written))
        bias = stack.relative_positions
        self._relative_positions = None if bias is None else self._parameter(bias.weight)
        for layer in self._layers[number]:
            for group in layer.groups:
                read = stream
                for branch in group:
                    stream = self._norm(branch.ends, self._sum(stream, self._branch(branch, read)))
        return stream

    def _branch(self, branch: Branch, stream: _Flow) -> _Flow:
        x = self._norm(branch.pre, stream)
        if isinstance(branch.body, Experts):
            added = self._experts(branch.body, x)
        else:
            body = self._attention(branch.body, x) if isinstance(branch.body, Attention) else self._gated(branch.body, x)
            added = self._linear(branch.body.last, body)
        return self._norm(branch.post, added)

    def _attention(self, body: Attention, x: _Flow) -> _Flow:
        sizes = self.graph.sizes
        heads, groups, width = sizes["heads"], sizes["kv_heads"], sizes["head_dim"]
        parts: dict[str, _Flow] = {}
        latents: dict[str, _Flow] = {}
        for latent in body.latents:
            parts |= self._parts([latent.linear], x)
            latents[latent.port] = self._norm(latent.norm, parts.pop("latent"))
        for linear in body.inputs:
            read = self._encoded if body.reads_encoder(linear) else latents.get(linear.into.parts[0].ports[0], x)
            parts |= self._parts([linear], read)
        if body.latents:
            parts |= {
                part: self._joined(parts[f"{part}_rope"].reshape(-1, sizes["qk_rope_head_dim"]), parts[part].reshape(heads, -1))
                for part in ("query", "key")
            }
        for norm, part, _ in head_norms(body):
            over = parts[part].reshape(-1, width) if norm.span == "head" else parts[part]
            parts[part] = self._norm(norm, over)
        query, key = (self._turned(parts[part].reshape(-1, width), body.rotary) for part in ("query", "key"))
        value = parts["value"].reshape(groups, sizes[body.value_port])
        served = heads // groups
        mixed = value.value.repeat(served, axis=0)
        added = None if body.cross else self._relative_positions

        def back(given: Mask) -> None:
            # d score = sum_c d mixed_c (v_c - the mix of all v_c); d q = d score k, d k = d score q.
            scored = (given & mixed).any(-1, keepdims=True)
            if added is not None:
                added.trained[body.output.weight] = (np.ones(len(added.held[0][0]), dtype=bool), scored[:, 0])
            query.gradient |= scored & key.value.repeat(served, axis=0)
            key.gradient |= (scored & query.value).reshape(groups, served, width).any(1)
            value.gradient |= given.reshape(groups, served, value.value.shape[-1]).any(1)

        return self._node(mixed, back).reshape(-1)

    def _node(self, value: Mask, back: Callable[[Mask], None]) -> _Flow:
        """Return a value; on the way back `back` gets the loss's derivative by it and passes that on to what it is made of."""
        out = _Flow(value, np.zeros(value.shape, dtype=bool))
        self._tape.append(lambda: back(out.gradient))
        return out

    def _joined(self, turned: _Flow, rest: _Flow) -> _Flow:
        """Two parts of each head side by side; the first may be one for all heads."""
        heads, width = len(rest.value), turned.value.shape[-1]
        first = np.broadcast_to(turned.value, (heads, width))

        def back(given: Mask) -> None:
            before = given[:, :width]
            turned.gradient |= before if len(turned.value) == heads else before.any(0, keepdims=True)
            rest.gradient |= given[:, width:]

        return self._node(np.concatenate([first, rest.value], axis=-1), back).reshape(-1)

    def _turned(self, x: _Flow, rotary: Rotary | None) -> _Flow:
        """Each of the two channels of a pair goes into both."""
        if rotary is None:
            return x
        pair, half = rotary.pairs_of(torch.arange(rotary.dims))
        partner = np.arange(x.value.shape[-1])
        partner[: rotary.dims] = rotary.channels_of(pair, 1 - half).numpy()

        def back(given: Mask) -> None:
            x.gradient |= given | given[:, partner]

        return self._node(x.value | x.value[:, partner], back)

    def _gated(self, body: Mlp, x: _Flow) -> _Flow:
        """act(gate) * up, or act(up): the gradient of each factor has the others in it."""
        factors = list(self._parts(body.inputs, x).values())

        def back(given: Mask) -> None:
            for factor in factors:
                others = [given, *(other.value for other in factors if other is not factor)]
                factor.gradient |= reduce(np.logical_and, others)

        return self._node(reduce(np.logical_and, [factor.value for factor in factors]), back)

    def _experts(self, body: Experts, x: _Flow) -> _Flow:
        """gate * expert(x): a gate is never zero, and its gradient has the expert's output in it. Experts are made alike."""
        pairs = [(body.router, body.each[0]), (body.shared_gate, body.shared)]
        given = [self._times(gate, network, x) for gate, network in pairs if network is not None]
        return given[0] if len(given) == 1 else self._sum(*given)

    def _times(self, gate: Linear | None, network: Mlp, x: _Flow) -> _Flow:
        out = self._linear(network.last, self._gated(network, x))
        if gate is None:
            return out
        scores = self._linear(gate, x)

        def back() -> None:
            scores.gradient |= bool((out.gradient & out.value).any())

        self._tape.append(back)
        return out

    def _norm(self, norm: Norm | None, x: _Flow) -> _Flow:
        """gain * (x - mean) / deviation + bias, over the last axis; RMS takes no mean away."""
        if norm is None:
            return x
        gain = self._parameter(norm.gain)
        held = gain.vector
        layer = norm.kind == "layer"
        normed = x.value | x.value.any(-1, keepdims=True) if layer else x.value

        def back(given: Mask) -> None:
            gain.trained["norm"] = ((normed & given).reshape(-1, len(held)).any(0),)
            passed = given & held
            # Each channel enters the statistics that divide all of them, and the mean.
            shared = passed.any(-1, keepdims=True) if layer else x.value & (passed & normed).any(-1, keepdims=True)
            x.gradient |= passed | shared

        out = self._node(normed & held, back)
        return out if norm.bias is None else self._bias(norm.bias, out)

    def _linear(self, linear: Linear, x: _Flow) -> _Flow:
        out = self._product(linear.weight, x, into=0 if linear.transposed else 1)
        return out if linear.bias is None else self._bias(linear.bias, out)

    def _parts(self, linears: Sequence[Linear], x: _Flow) -> dict[str, _Flow]:
        """What each part of the linears' outputs gives."""
        given: dict[str, _Flow] = {}
        for linear in linears:
            out = self._linear(linear, x)
            for number, part in enumerate(linear.out.parts):
                given[part.name] = out if len(linear.out.parts) == 1 else self._taken(out, linear.out, number)
        return given

    def _taken(self, x: _Flow, axis: Axis, number: int) -> _Flow:
        places = axis.places(number, self.graph.sizes).numpy()

        def back(given: Mask) -> None:
            x.gradient[places] |= given

        return self._node(x.value[places], back)

    def _product(self, name: str, x: _Flow, *, into: int, use: str = "product") -> _Flow:
        """W x; axis `into` of what is stored is summed over."""
        parameter, outer = self._parameter(name), 1 - into
        boxes = parameter.boxes
        fed = [box[outer] for box in boxes if (box[into] & x.value).any()]

        def back(given: Mask) -> None:
            for box in boxes:
                if (box[outer] & given).any():
                    x.gradient |= box[into]
            parameter.trained[use] = (x.value, given) if into == 0 else (given, x.value)

        return self._node(_union(fed) if fed else np.zeros(len(boxes[0][outer]), dtype=bool), back)

    def _bias(self, name: str, x: _Flow) -> _Flow:
        parameter = self._parameter(name)

        def back(given: Mask) -> None:
            x.gradient |= given
            parameter.trained["bias"] = (np.asarray(given.reshape(-1, len(parameter.vector)).any(0)),)

        return self._node(x.value | parameter.vector, back)

    def _sum(self, one: _Flow, other: _Flow) -> _Flow:
        def back(given: Mask) -> None:
            for term in (one, other):
                term.gradient |= given

        return self._node(one.value | other.value, back)

    # --- tensors ----------------------------------------------------------------------------------

    def _parameter(self, name: str) -> _Parameter:
        if name not in self._parameters:
            tensor = self._plan.tensors[name]
            self._parameters[name] = _Parameter(tensor, self._held(tensor))
        return self._parameters[name]

    def _held(self, tensor: Tensor) -> list[tuple[Mask, ...]]:
        """Where a tensor is not zero at first: as the growth fills it, zeros before initial values before small ones."""
        initial = tensor.init != "zeros" or tensor.offset != 0.0
        maps = self._plan.index_maps.get(tensor.name)
        value = self._plan.zero_output_values.get(tensor.name)
        if value is not None or maps is None:
            any_of_it = initial if value is None else value + tensor.offset != 0.0
            return [tuple(np.full(size, any_of_it) for size in tensor.shape(self.graph.sizes))]
        codes = [each.indices.numpy() for each in maps]
        # Small values of a gain or bias are zeros.
        excluded = (ZERO, INIT) if self._plan.growth.noise and len(maps) > 1 else (ZERO, INIT, SMALL)
        boxes = [tuple(reduce(np.logical_and, [each != code for code in excluded]) for each in codes)]
        for axis, each in enumerate(codes) if initial else ():
            if (drawn := each == INIT).any():
                boxes.append(tuple(drawn if other == axis else codes[other] != ZERO for other in range(len(codes))))
        return boxes


def _union(masks: Iterable[Mask]) -> Mask:
    return np.asarray(reduce(np.logical_or, masks))
