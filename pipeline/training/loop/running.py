"""How a model runs inside a step: the active that a step asks for, and the positions that are scored."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.common import keyed
from pipeline.data.objectives import IGNORED
from pipeline.families import ActiveLayers, Family
from pipeline.training.head import labelled


def draw_depths(layers: int, per_block: int, key: tuple[object, ...], start: int, count: int) -> np.ndarray:
    """Return the depths of steps [start, start + count) of a stage of sub-models, int64, uniform over {b, 2b, ..., L}.

    bert2BERT algorithm 2, line 5. A depth is a function of `key`, which names the run's seed and the stage, and of the
    step's number within the stage.
    """
    return per_block * (1 + keyed.below(("submodel", *key), start, count, layers // per_block))


@contextmanager
def running(model: PreTrainedModel, family: Family, active: ActiveLayers) -> Iterator[None]:
    """Run only the bottom layers of `active`, and record a graph from the lowest one that learns.

    What is below runs without gradients and keeps no activations: a tied embedding would otherwise pull gradients through
    every frozen layer, and so learns from the head's side only.
    """
    layers = cast(nn.ModuleList, model.get_submodule(family.layers))

    def stop_recording(*_: object) -> None:
        torch.set_grad_enabled(False)

    def record(*_: object) -> None:
        torch.set_grad_enabled(True)

    hooks = []
    if active.lowest is not None:
        behind = family.pooler or family.head_module
        lowest = layers[active.lowest] if active.lowest < active.depth else model.get_submodule(behind)
        hooks = [model.base_model.register_forward_pre_hook(stop_recording), lowest.register_forward_pre_hook(record)]
    whole = active.depth == len(layers)
    if not whole:
        model.set_submodule(family.layers, layers[: active.depth])
    try:
        with torch.enable_grad():
            yield
    finally:
        if not whole:
            model.set_submodule(family.layers, layers)
        for hook in hooks:
            hook.remove()


@contextmanager
def scoring(
    model: PreTrainedModel, family: Family, labels: torch.Tensor, scored_positions: torch.Tensor | None = None
) -> Iterator[torch.Tensor]:
    """Give the prediction head of a masked language model the scored positions alone; yield the labels of its logits.

    `labels` is int64 [sequences, S]; logits come out [scored, V], of which there may be none. A causal model scores every
    position, and runs as it is. `Batch.scored_positions` spares looking for them, which waits for labels that are on a
    device.
    """
    if family.objective == "clm":
        with labelled(model, labels):
            yield labels
        return
    flat = labels.flatten()
    scored = (flat != IGNORED).nonzero().squeeze(1) if scored_positions is None else scored_positions

    def select(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden, *others = inputs
        return (hidden.flatten(0, 1).index_select(0, scored.to(hidden.device)), *others)

    hook = model.get_submodule(family.head_module).register_forward_pre_hook(select)
    try:
        chosen = flat.index_select(0, scored)
        with labelled(model, chosen):
            yield chosen
    finally:
        hook.remove()
