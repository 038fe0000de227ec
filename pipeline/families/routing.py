"""The routers of a mixture of experts: where its class has them, and in what they compute."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from transformers import PretrainedConfig, PreTrainedModel

from pipeline.families.graph import Experts, Model
from pipeline.families.tensors import RESIDUAL


class Router(NamedTuple):
    """One layer's router."""

    layer: int
    module: str
    """The class's module, which returns logits, gates and the numbers of the experts that are chosen."""
    node: Experts


def routers(graph: Model) -> Iterator[Router]:
    """Yield the routers of a model, from the lowest layer up; a dense model has none."""
    own_name = {joined.parts[0]: joined.name for joined in graph.joined}
    for number, body in graph.experts:
        weight = body.router.weight
        yield Router(number, own_name.get(weight, weight).rpartition(".")[0], body)


def route_in_float32(model: PreTrainedModel, graph: Model) -> None:
    """Have routers compute logits, scores and gates in float32 at least, from a stream and weights that may have fewer bits.

    A rounded logit may choose another expert, so that nearby values of the weights no longer give nearby losses (Switch
    Transformers, 2101.03961, section 2.4). The class's own forward runs; weights and what is stored stay as they are.
    """
    for router in routers(graph):
        module = model.get_submodule(router.module)
        module.forward = _InFloat32(module)


class _InFloat32:
    """The forward of a router's class over its module, whose tensors are read in float32 at least."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._forward = type(module).forward
        self._module = module

    def __call__(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self._forward(self, _widened(hidden_states))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            # Asked for while a copy is made, which has no module yet.
            raise AttributeError(name)
        value = getattr(self._module, name)
        return _widened(value) if isinstance(value, torch.Tensor) else value


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    wide = torch.promote_types(tensor.dtype, torch.float32)
    # Matrices that are read when they are used, a few rows at a time, are asked for nothing that they need not be.
    return tensor.to(wide) if tensor.dtype.is_floating_point and tensor.dtype is not wide else tensor


def choose_products(config: PretrainedConfig, graph: Model, dtype: torch.dtype) -> None:
    """Have a mixture's experts run by grouped products where these take them in `dtype`, else one after the other."""
    if any(routers(graph)):
        config._experts_implementation = "grouped_mm" if grouped_refusal(graph, dtype) is None else "eager"


def grouped_refusal(graph: Model, dtype: torch.dtype) -> str | None:
    """Return why torch's grouped products (`grouped_mm`) do not take the experts of a model in `dtype`; None where they do.

    They read rows of whole 16 bytes, of float32, bfloat16 or float16 (torch 2.13, `_grouped_mm`).
    """
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"does not know {str(dtype).removeprefix('torch.')}"
    step = 16 // dtype.itemsize
    for router in routers(graph):
        units = router.node.each[0].last.into.size(graph.sizes)
        for key, size in (("the stream", graph.sizes[RESIDUAL]), ("an expert", units)):
            if size % step:
                return f"reads rows of whole 16 bytes, {step} numbers of {dtype.itemsize} bytes, and {key} has {size} channels"
    return None
