"""An engine's checkpoint handed over file by file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from deepspeed import DeepSpeedEngine
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

from pipeline.deepspeed.disk import saved_from_disk

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
