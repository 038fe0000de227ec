"""What the tests of live engines share."""

import gc
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils import safe_get_full_fp32_param
from torch.utils.cpp_extension import _get_build_directory
from transformers import PretrainedConfig

from pipeline.families import ActiveLayers, Family, family_of
from pipeline.growth.initialization import initialized
from pipeline.growth.state import Source
from pipeline.recipe import OptimizerConfig
from pipeline.training import distributed
from pipeline.training.engine import TrainedModel, build
from pipeline.training.loop.running import running
from pipeline.training.losses import summed_loss
from pipeline.training.parameter_groups import ParameterGroup
from pipeline.training.toolchain import missing_tool

SEED = 5
"""Of the initialization of models that begin."""


def engine_config(zero: int | dict[str, Any], batch: int, *, bf16: bool = False, accumulation: int = 1, **others: Any) -> dict:
    """Return an engine's configuration: its ZeRO stage or section, and the sequences of a step over all ranks."""
    return {
        "train_batch_size": batch,
        "train_micro_batch_size_per_gpu": batch // distributed.world_size() // accumulation,
        "gradient_accumulation_steps": accumulation,
        "bf16": {"enabled": bf16},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": zero} if isinstance(zero, int) else zero,
        "steps_per_print": 1 << 40,
    } | others


def built(
    config: PretrainedConfig,
    ds_config: dict[str, Any],
    optimizer: OptimizerConfig,
    groups: list[ParameterGroup],
    source: Source | None = None,
    attention: str = "sdpa",
    **options: Any,
) -> TrainedModel:
    """Return the engine of a source, of the optimizer's state too, or of a model at its initialization."""
    family = family_of(config)
    state, kept = (initialized(family, config, SEED), None) if source is None else (source.state, source.optimizer)
    return build(family, config, state, ds_config, optimizer, groups, attention, kept, **options)


def train_step(
    trained: TrainedModel, inputs: torch.Tensor, labels: torch.Tensor, active: ActiveLayers | None = None, accumulation: int = 1
) -> float:
    """Take a step on a batch, of which each rank takes its share; return the mean loss over all ranks.

    `active` says what runs and learns; None is the whole model, of which that is left as it is.
    """
    if active is not None:
        trained.learn(active)
    ranks, summed = distributed.world_size(), 0.0
    share = len(inputs) // ranks // accumulation
    device = distributed.device()
    for number in range(accumulation):
        begin = (distributed.rank() * accumulation + number) * share
        own = slice(begin, begin + share)
        with nullcontext() if active is None else running(trained.module, trained.family, active):
            loss = summed_loss(trained.logits(inputs[own].to(device)).tokens, labels[own].to(device))
        trained.engine.backward(loss * (ranks * accumulation / inputs.numel()))
        trained.engine.step()
        summed += loss.item()
    return distributed.total(summed)[0] / inputs.numel()


def drawn_batches(seed: int, steps: int, batch: int, length: int, vocabulary: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the inputs and labels of each step, drawn."""
    drawn = torch.randint(0, vocabulary, (steps, 2, batch, length), generator=torch.Generator().manual_seed(seed))
    return [(inputs, labels) for inputs, labels in drawn]


def loaded_model(family: Family, config: PretrainedConfig) -> torch.nn.Module:
    """Return the family's plain model with the weights that engines of these tests begin with."""
    model = family.model_class(config)
    state = initialized(family, config, SEED)
    model.load_state_dict({name: rows.rows(0, rows.shape[0]) for name, rows in state.items()}, strict=False)
    model.tie_weights()
    return model


def matrix_elements() -> int:
    """Return the elements of the matrices that are alive in this process."""
    alive = [held for held in gc.get_objects() if type(held) is torch.nn.Parameter]
    return sum(held.numel() for held in alive if held.ndim > 1 and not held.is_meta)


def full_weight(parameter: torch.nn.Parameter) -> torch.Tensor:
    """Return one parameter's fp32 master whole, gathered by DeepSpeed; a collective call."""
    whole = safe_get_full_fp32_param(parameter)
    # Stage 0 has no masters beside the weights.
    whole = parameter.detach() if whole is None else whole
    return whole.float().cpu().reshape(getattr(parameter, "ds_shape", parameter.shape))


def is_built(builder) -> bool:
    """Whether an extension need not be compiled, for minutes, by the test."""
    folder = Path(_get_build_directory(builder.name, False))
    # A build that was killed leaves its lock, on which whoever loads the extension waits for ever.
    return (folder / f"{builder.name}.so").is_file() and not (folder / "lock").exists()


def can_compile() -> bool:
    """Whether there is what torch.compile needs of the system."""
    return missing_tool("cpu") is None
