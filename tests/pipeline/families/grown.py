"""Small random models of families, in float64: saved, grown, and grown from directory to directory."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline.families import FAMILIES, target_config
from pipeline.growth.offline import OfflineGrowth, Request
from pipeline.growth.plan import GrowthPlan, plan_growth
from pipeline.recipe import GrowthConfig, TargetConfig
from tests.pipeline.growth import check

IDS = torch.randint(4, 61, (2, 24), generator=torch.Generator().manual_seed(2))


def random(name: str, **options: Any) -> PreTrainedModel:
    """A model of a family under options of its configuration."""
    return check.random_model(FAMILIES[name], check.small_config(FAMILIES[name], **options), 1)


def saved(directory: Path, name: str, **options: Any) -> PreTrainedModel:
    """The same, which is in a directory too."""
    model = random(name, **options)
    model.save_pretrained(directory)
    return model


def logits(name: str, model: PreTrainedModel) -> torch.Tensor:
    """Its logits of IDS."""
    return check.logits(FAMILIES[name], model, IDS)


def grown(
    name: str, sizes: dict[str, Any], growth: dict[str, Any] | None = None, **options: Any
) -> tuple[GrowthPlan, PreTrainedModel, PreTrainedModel, float]:
    """The plan, the source's model and the grown one, and by how much logits move."""
    model = random(name, **options)
    config = check.small_config(FAMILIES[name], **options)
    plan = plan_growth(config, target_config(config, TargetConfig(**sizes)), GrowthConfig(**growth or {}), 1, stock=True)
    after = check.grown_model(plan, model)
    return plan, model, after, (logits(name, after) - logits(name, model)).abs().max().item()


def offline(
    source: Path, target: dict[str, Any] | Path, growth: dict[str, Any] | None = None, dtype: str | None = None, **options: Any
) -> OfflineGrowth:
    """The growth of a directory into `out` beside it, of the source's dropout."""
    wanted = TargetConfig(**{"dropout": None} | target) if isinstance(target, dict) else target
    request = Request(source, wanted, GrowthConfig(**growth or {}), 1, "hf", dtype, None, source.with_name("out"))
    return OfflineGrowth(request, **options)


def certified(source: Path, target: dict[str, Any] | Path, *arguments: Any) -> dict[str, Any]:
    """The certificate of the same growth, carried out."""
    return offline(source, target, *arguments).execute(lambda certificate: {})
