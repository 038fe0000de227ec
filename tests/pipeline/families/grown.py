"""Small random models of families, in float64: saved, grown, and grown from directory to directory."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline.families import FAMILIES, family_of, graph_of
from pipeline.growth.float64_casts import Float64Casts
from pipeline.growth.fused_parameters import stored_of
from pipeline.growth.huggingface import MappedTensor
from pipeline.growth.offline import OfflineGrowth
from pipeline.growth.plan import GrowthPlan
from tests.pipeline.growth import check, models
from tests.pipeline.growth.check import IDS

PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
"""The content of config.json as models are published with, by name."""


def random(name: str, **options: Any) -> PreTrainedModel:
    """A model of a family under options of its configuration."""
    return check.random_model(FAMILIES[name], check.small_config(FAMILIES[name], **options), 1)


def saved(directory: Path, name: str, **options: Any) -> PreTrainedModel:
    """The same, which is in a directory too."""
    model = random(name, **options)
    model.save_pretrained(directory)
    return model


def logits(model: PreTrainedModel, ids: torch.Tensor = IDS) -> torch.Tensor:
    """Its logits of tokens."""
    return check.logits(family_of(model.config), model, ids)


def moved_by(plan: GrowthPlan, model: PreTrainedModel) -> float:
    """By how much a growth of the model moves its logits."""
    return check.moved(plan, model)[0]


def grown(
    name: str, sizes: dict[str, Any], growth: dict[str, Any] | None = None, **options: Any
) -> tuple[GrowthPlan, PreTrainedModel, PreTrainedModel, float]:
    """The plan, the source's model and the grown one, and by how much logits move."""
    plan, model = check.planned(name, sizes, growth, **options)
    moved, after = check.moved(plan, model)
    return plan, model, after, moved


def gradients(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The gradient of each stored parameter, of the loss of IDS."""
    model.zero_grad()
    with Float64Casts():
        model(input_ids=IDS, labels=IDS).loss.backward()
    held = {name: MappedTensor(parameter.grad) for name, parameter in model.named_parameters()}
    found = stored_of(graph_of(model.config), held)
    return {name: tensor.rows(0, tensor.shape[0]) for name, tensor in found.items()}


def offline(
    source: Path, target: dict[str, Any] | Path, growth: dict[str, Any] | None = None, dtype: str | None = None, **options: Any
) -> OfflineGrowth:
    """The growth of a directory into `out` beside it, of the source's dropout."""
    return models.offline(source, source.with_name("out"), target, growth, dtype=dtype, **options)


def certified(source: Path, target: dict[str, Any] | Path, *arguments: Any) -> dict[str, Any]:
    """The certificate of the same growth, carried out."""
    return offline(source, target, *arguments).execute(lambda certificate: {})
