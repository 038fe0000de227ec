"""How large a model is: its parameters by kind, and what a rank keeps of them by ZeRO stage."""

import math
from collections.abc import Iterator

import torch
from transformers import PretrainedConfig

from pipeline.families import AxisKind, TensorSpec, family_of, sizes_of
from pipeline.growth.memory import RankBytes, rank_bytes
from pipeline.recipe import OptimizerConfig
from pipeline.training.muon import steps_as_matrix

_ZERO_STAGES = range(4)


def parameters_by_kind(config: PretrainedConfig) -> dict[str, int]:
    """Return a model's parameters: embeddings (a tied head's matrix among them), attention, ffn, head, norms and biases."""
    counts = dict.fromkeys(("embeddings", "attention", "ffn", "head", "norms and biases"), 0)
    for spec, elements in _tensors(config):
        counts[_kind(spec)] += elements
    return counts


def _tensors(config: PretrainedConfig) -> Iterator[tuple[TensorSpec, int]]:
    sizes = sizes_of(config)
    for spec, _ in family_of(config).specs(sizes).values():
        yield spec, math.prod(sizes.shape(spec))


def _kind(spec: TensorSpec) -> str:
    if len(spec.axes) == 1:
        return "norms and biases"
    if spec.block != "layer":
        return spec.block
    return "ffn" if any(axis.kind is AxisKind.FFN for axis in spec.axes) else "attention"


def memory_by_stage(
    config: PretrainedConfig, optimizer: OptimizerConfig, dtype: torch.dtype, ranks: int
) -> dict[int, RankBytes]:
    """Return what a rank keeps of a model by ZeRO stage, 0 being none."""

    def kept(spec: TensorSpec) -> int:
        # Lion keeps a momentum, and Muon does of the matrices of layers.
        return 1 if optimizer.name == "lion" or (optimizer.name == "muon" and steps_as_matrix(spec)) else 2

    tensors = [(elements, kept(spec)) for spec, elements in _tensors(config)]
    return {stage: rank_bytes(tensors, ranks, stage, dtype) for stage in _ZERO_STAGES}
