"""What a run has, from its preparation to its summary."""

from dataclasses import dataclass
from typing import Any, cast

import torch

from pipeline.recipe import Recipe
from pipeline.runs.records import CertificateRecord, DataRecord, DsConfigRecord
from pipeline.training.directory.checkpoints import Checkpoints
from pipeline.training.directory.run_directory import RunDirectory
from pipeline.training.ds_config import compute_dtype
from pipeline.training.monitoring.monitors import without_monitors
from pipeline.training.preparation.preparation import Preparation
from pipeline.training.sequence_parallel import SequenceGroup


@dataclass
class RunContext:
    """A recipe under a DeepSpeed configuration, prepared, in its run directory."""

    recipe: Recipe
    ds_config: dict[str, Any]
    directory: RunDirectory
    checkpoints: Checkpoints
    prepared: Preparation
    sequences: SequenceGroup
    data: DataRecord
    """What data.json says, the run's id included."""
    certificates: list[CertificateRecord]
    """Of the growths so far."""

    def __post_init__(self) -> None:
        self.checkpoints.beside = self.prepared.data.tokenizer.write
        self.checkpoints.run = {
            "recipe": self.recipe.model_dump(mode="json"),
            "ds_config": cast(DsConfigRecord, without_monitors(self.ds_config)),
            "data": self.data,
            # The list itself: later checkpoints hold later growths.
            "certificates": self.certificates,
        }

    @property
    def dtype(self) -> torch.dtype:
        """What the engine computes in."""
        return compute_dtype(self.ds_config)

    @property
    def source_remarks(self) -> tuple[str, ...]:
        """How the given source was read."""
        return () if self.prepared.given is None else self.prepared.given.remarks

    def certified(self, number: int, certificate: CertificateRecord) -> None:
        """Take note of a growth's certificate; where the run went back behind that growth this is its second one."""
        self.certificates[number - 1 :] = [certificate]
