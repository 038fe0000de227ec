"""An engine's checkpoint handed over file by file, also where masters and optimizer state lie on a disk (ZeRO-3, nvme)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from deepspeed import DeepSpeedEngine
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3

SaveFile = Callable[[dict[str, Any], str], None]
"""Takes what a file of a checkpoint is to hold, and its path. What it raises would leave other ranks waiting in a barrier."""


class _HandedOver(TorchCheckpointEngine):
    def __init__(self, replaced: TorchCheckpointEngine, save: SaveFile) -> None:
        self.name = replaced.name
        self._save = save

    def save(self, state_dict: dict[str, Any], path: str) -> None:
        """Hand a file over."""
        self._save(state_dict, path)


@contextmanager
def saving_by(engine: DeepSpeedEngine, save: SaveFile) -> Iterator[None]:
    """Have `engine.save_checkpoint` hand over its files, masters on a disk mapped into memory, and write nothing itself."""
    replaced, engine.checkpoint_engine = engine.checkpoint_engine, _HandedOver(engine.checkpoint_engine, save)
    # DeepSpeed copies two scripts beside every checkpoint; on a full disk that raises on one rank alone.
    engine._copy_recovery_script = lambda save_path: None
    try:
        with saved_from_disk(engine):
            yield
    finally:
        engine.checkpoint_engine = replaced


@contextmanager
def saved_from_disk(engine: DeepSpeedEngine) -> Iterator[None]:
    """Let the engine save masters and optimizer state that lie on a disk as it saves those in memory, mapped from there.

    DeepSpeed alone copies its swap files, under names by which nothing but the same model in the same process knows them.
    """
    wrapper = engine.optimizer
    if not getattr(wrapper, "swap_optimizer", False):
        yield
        return
    plain = wrapper.state_dict

    def state_dict() -> dict:
        saved = plain()
        # A list of its own: that is the optimizer's.
        saved["fp32_flat_groups"] = list(saved["fp32_flat_groups"])
        for number, master in enumerate(wrapper.fp32_partitioned_groups_flat):
            if wrapper._swappable_optimizer_subgroup(number):
                mapped = _mapped(wrapper, number)
                saved["fp32_flat_groups"][number] = mapped[id(master)]
                kept = wrapper.optimizer.state.get(master, {})
                of_master = {key: mapped.get(id(value), value) for key, value in kept.items()}
                saved["optimizer_state_dict"]["state"] |= {number: of_master} if of_master else {}
        return saved

    wrapper.state_dict, engine.zero_nvme_offload_optimizer = state_dict, lambda: False
    try:
        yield
    finally:
        del wrapper.state_dict, engine.zero_nvme_offload_optimizer


def _mapped(wrapper: DeepSpeedZeroOptimizer_Stage3, number: int) -> dict[int, torch.Tensor]:
    """Return a master and what is kept of it, mapped from the swap files, by the tensors that stand for them."""
    master = wrapper.fp32_partitioned_groups_flat[number]
    numel = wrapper.fp16_partitioned_groups_flat_numel[number]
    return {
        id(context.compute_tensor): torch.from_file(context.swap_path, size=numel, dtype=master.dtype)
        for context in wrapper.optimizer_swapper.swap_params_info[master.ds_id].tensors
    }
