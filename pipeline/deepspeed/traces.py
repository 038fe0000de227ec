"""ZeRO-3's recorded order of modules, kept for each way in which a model runs."""

from collections import deque
from collections.abc import Hashable
from typing import Any

import torch
from deepspeed import DeepSpeedEngine
from deepspeed.runtime.zero.partitioned_param_coordinator import ZeRoTraceMode


class TraceCache:
    """Gives ZeRO-3 back the order of modules that it recorded when the model last ran as it is about to run.

    DeepSpeed fetches parameters ahead in the order of the last forward and backward pass. Where the order changes, as with
    each other depth of a sub-model, it drops what it has, takes one pass to notice and another to record, and fetches nothing
    ahead in either: changing depths would hardly ever fetch ahead. Kept here are the structures of
    `PartitionedParameterCoordinator` that are frozen at the end of a recorded pass.
    """

    def __init__(self, engine: DeepSpeedEngine, layers: str) -> None:
        """`engine` has ZeRO stage 3; `layers` is the name of the list of layers in its model."""
        self._model, self._layers = engine.module, layers
        self._parameters = list(engine.module.parameters())
        self._coordinator = engine.optimizer.parameter_offload.get_param_coordinator()
        self._recorded: dict[Hashable, tuple[Any, Any]] = {}
        self._running: Hashable = None
        self._reset_step = self._coordinator.reset_step
        # DeepSpeed calls it where a forward pass begins, to end the pass before.
        self._coordinator.reset_step = self._begin

    def _begin(self) -> None:
        self._reset_step()
        if self._coordinator.is_complete_trace():
            self._recorded[self._running] = (self._get("submodule_order"), self._get("param_order"))
        else:
            # The pass was not as recorded.
            self._recorded.pop(self._running, None)
        # What the order of modules depends on: the layers that run, and those that gradients go through.
        depth, learns = len(self._model.get_submodule(self._layers)), (each.requires_grad for each in self._parameters)
        self._running = depth, torch.is_grad_enabled(), tuple(learns)
        known = self._running in self._recorded
        modules, parameters = self._recorded.get(self._running, ([], []))
        self._set("submodule_order", modules)
        self._set("param_order", parameters)
        self._set("param_queue", deque(parameters))
        self._set("trace_mode", ZeRoTraceMode.COMPLETE if known else ZeRoTraceMode.RECORD)

    def _get(self, name: str) -> Any:
        return getattr(self._coordinator, f"_PartitionedParameterCoordinator__{name}")

    def _set(self, name: str, value: Any) -> None:
        setattr(self._coordinator, f"_PartitionedParameterCoordinator__{name}", value)
