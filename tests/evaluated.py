"""Models as evaluation runs them, on one process."""

from pathlib import Path

import torch

from pipeline.evaluation.models import EvaluatedModel, find_model, whole_model


def open_model(path: Path, **how: bool) -> EvaluatedModel:
    """Return the model of a directory or a run, whole, on the CPU and in float32."""
    found = find_model(path, **how)
    return EvaluatedModel(**vars(found), module=whole_model(found.source, torch.device("cpu"), torch.float32))
