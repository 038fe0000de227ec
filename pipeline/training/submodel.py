"""Sub-models (bert2BERT algorithm 2): the bottom layers and the shared head, of which the top block learns."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline import keyed
from pipeline.families import Family


def draw_depth(layers: int, per_block: int, key: tuple[object, ...]) -> int:
    """Return the depth of one sub-model, uniform over {b, 2b, ..., L} (algorithm 2, line 5): a function of `key`."""
    return per_block * (1 + int(keyed.below(("submodel", *key), 0, 1, layers // per_block)[0]))


@contextmanager
def submodel(model: PreTrainedModel, family: Family, depth: int, trained: int) -> Iterator[None]:
    """Run only the bottom `depth` layers, and record a graph for the top `trained` of them and the head.

    Everything below runs without gradients: a tied embedding would otherwise pull gradients
    through every frozen layer, and so learns from the head's side only.
    """
    layers = model.get_submodule(family.layers)
    lowest = layers[depth - trained]

    def stop_recording(*_: object) -> None:
        torch.set_grad_enabled(False)

    def record(*_: object) -> None:
        torch.set_grad_enabled(True)

    hooks = [
        model.base_model.register_forward_pre_hook(stop_recording),
        lowest.register_forward_pre_hook(record),
    ]
    model.set_submodule(family.layers, nn.ModuleList(list(layers)[:depth]))
    try:
        with torch.enable_grad():
            yield
    finally:
        model.set_submodule(family.layers, layers)
        for hook in hooks:
            hook.remove()
