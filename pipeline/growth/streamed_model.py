"""A Hugging Face model whose matrices are read a few rows at a time, whenever they are used."""

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from transformers import PretrainedConfig, PreTrainedModel

from pipeline.families import Family
from pipeline.families.routing import route_in_float32
from pipeline.growth.float64_casts import Float64Casts
from pipeline.growth.fused_parameters import FlatSlice, parameters_of
from pipeline.growth.state import Rows, State
from pipeline.growth.streaming import row_chunks

_REGISTERING = threading.Lock()
"""Held by the thread that has its own way of registering parameters in place."""


_DESCRIBED = frozenset(("shape", "dtype", "device", "ndim", "requires_grad", "is_meta", "layout", "is_cuda", "is_leaf", "grad"))
"""What a parameter on the meta device knows of itself; its transposes and data are values."""


class StreamedMatrices(TorchFunctionMode):
    """Within it functions find the rows of matrices that are described alone, whatever module calls them.

    Products and lookups read a few rows at a time; any other function gets the whole matrix.
    """

    def __init__(self, matrices: Mapping[nn.Parameter, Rows], dtype: torch.dtype) -> None:
        """Of each parameter on the meta device its rows, which are read in `dtype`."""
        super().__init__()
        self._matrices, self._dtype = dict(matrices), dtype
        self._slices: dict[tuple[nn.Parameter, int], nn.Parameter] = {}
        # The dtype in which kernels sum up products of numbers in `dtype`; what comes out is rounded once.
        self._wide = torch.promote_types(dtype, torch.float32)

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run a torch function."""
        options = dict(kwargs or {})
        # A getter is its attribute's, whose name tells.
        attribute = (
            getattr(getattr(func, "__self__", None), "__name__", "") if getattr(func, "__name__", "") == "__get__" else ""
        )
        if attribute not in _DESCRIBED:
            if func is functional.linear and len(args) > 1 and self._streamed(args[1]):
                return self._linear(*args, **options)
            if func is functional.embedding and len(args) > 1 and self._streamed(args[1]) and _looks_up(args[2:], options):
                return self._embedding(*args[:2])
            if func is torch.addmm and len(args) == 3 and not options and self._streamed(args[2]):  # transformers' Conv1D
                return self._addmm(*args)
            if func is torch.Tensor.__getitem__ and self._streamed(args[0]) and _is_number(args[1]):  # one expert's
                return self._slice(args[0], int(args[1]))
            args, options = tree_map(self._whole, (args, options))
        return func(*args, **options)

    def _streamed(self, argument: Any) -> bool:
        return isinstance(argument, nn.Parameter) and argument in self._matrices

    def _slice(self, weight: nn.Parameter, number: int) -> nn.Parameter:
        """A matrix among those of a weight of three axes, which is described alone as that is."""
        if (weight, number) not in self._slices:
            shape = weight.shape[1:]
            held = nn.Parameter(torch.empty(shape, dtype=self._dtype, device="meta"), requires_grad=False)
            self._matrices[held] = FlatSlice(self._matrices[weight], number * shape.numel(), tuple(shape))
            self._slices[weight, number] = held
        return self._slices[weight, number]

    def _whole(self, argument: Any) -> Any:
        if not self._streamed(argument):
            return argument
        rows = self._matrices[argument]
        return rows.rows(0, rows.shape[0]).to(self._dtype)

    def _chunks(self, weight: nn.Parameter) -> Iterator[tuple[int, int, torch.Tensor]]:
        for start, rows in row_chunks(self._matrices[weight]):
            yield start, start + len(rows), rows.to(self._dtype).to(self._wide)

    def _linear(self, x: torch.Tensor, weight: nn.Parameter, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x W^T + b of W [out, in]."""
        product = x.new_empty(*x.shape[:-1], weight.shape[0])
        for start, stop, rows in self._chunks(weight):
            added = None if bias is None else bias[start:stop].to(self._wide)
            product[..., start:stop] = functional.linear(x.to(self._wide), rows, added)
        return product

    def _addmm(self, bias: torch.Tensor, x: torch.Tensor, weight: nn.Parameter) -> torch.Tensor:
        """x W + b of W [in, out]."""
        product = bias.to(self._wide).expand(*x.shape[:-1], -1).clone()
        for start, stop, rows in self._chunks(weight):
            product += x[..., start:stop].to(self._wide) @ rows
        return product.to(self._dtype)

    def _embedding(self, indices: torch.Tensor, weight: nn.Parameter) -> torch.Tensor:
        """The rows that are looked up, and no others."""
        used, places = indices.unique(return_inverse=True)
        rows = self._matrices[weight]
        return torch.cat([rows.rows(i, i + 1) for i in used.tolist()]).to(self._dtype)[places]


def _is_number(index: Any) -> bool:
    """Whether an index takes one of the slices along the first axis."""
    return isinstance(index, int) or (isinstance(index, torch.Tensor) and index.ndim == 0 and not index.is_floating_point())


def _looks_up(others: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Whether an embedding only looks rows up, and does not renormalize them (`max_norm`)."""
    return (others[1] if len(others) > 1 else options.get("max_norm")) is None


def streamed_model(
    family: Family,
    config: PretrainedConfig,
    state: State,
    dtype: torch.dtype,
    attention: str = "sdpa",
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """Return the family's Hugging Face model whose matrices are read from `state` whenever they are used.

    It computes in `dtype`, rounding where the model would that holds its weights in it; in float64 throughout, where the
    class computes in float32 too. Its matrices are on the meta device, vectors and buffers on `device`, where rows are to come.
    """
    config = copy.deepcopy(config)
    config._attn_implementation = attention if family.fused_attention else "eager"
    # Grouped products of experts know neither float64 nor matrices that are read when they are used.
    config._experts_implementation = "eager"
    config.use_cache = False
    graph = family.graph(config)
    state = parameters_of(graph, state)
    with _parameters_on_meta():
        model = family.model(config).eval()
    # As models do that are trained here.
    route_in_float32(model, graph)
    matrices: dict[nn.Parameter, Rows] = {}
    for name, module in list(model.named_modules()):
        for leaf, parameter in list(module.named_parameters(recurse=False)):
            full = f"{name}.{leaf}"
            rows = state[full] if full in state else state[{**family.head_alias, **family.shared}[full]]
            if parameter.ndim > 1:
                held = nn.Parameter(torch.empty(parameter.shape, dtype=dtype, device="meta"), requires_grad=False)
                matrices[held] = rows
            else:
                held = nn.Parameter(rows.rows(0, rows.shape[0]).to(device, dtype), requires_grad=False)
            setattr(module, leaf, held)
    # What is left are buffers: those that files hold, and such as rotary frequencies.
    for name, module in model.named_modules():
        for leaf, buffer in list(module.named_buffers(recurse=False)):
            full = f"{name}.{leaf}"
            if full in state:
                buffer = state[full].rows(0, state[full].shape[0])
            setattr(module, leaf, buffer.to(device, dtype if buffer.is_floating_point() else buffer.dtype))
    forward = model.forward

    def streamed(*args: Any, **options: Any) -> Any:
        with ExitStack() as modes:
            if dtype is torch.float64:
                modes.enter_context(Float64Casts())
            modes.enter_context(StreamedMatrices(matrices, dtype))
            return forward(*args, **options)

    model.forward = streamed
    return model


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Construct modules whose parameters are only described while their buffers are real.

    Under `torch.device("meta")` the buffers would be lost too, rotary frequencies among them.
    """
    with _REGISTERING:
        register, here = nn.Module.register_parameter, threading.get_ident()

        def register_on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
            # Modules that other threads construct meanwhile are as they always are.
            if threading.get_ident() == here and param is not None and not param.is_meta:
                param = nn.Parameter(param.to("meta"), requires_grad=False)
            register(self, name, param)

        nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign] # torch has no hook for it
        try:
            yield
        finally:
            nn.Module.register_parameter = register  # type: ignore[method-assign]
