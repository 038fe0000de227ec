"""How large a model is: its parameters by kind, and what a rank keeps of them by ZeRO stage."""

import math
from collections.abc import Iterator

import torch
from transformers import PretrainedConfig

from pipeline.families import graph_of
from pipeline.families.tensors import Tensor
from pipeline.growth.memory import RankBytes, rank_bytes
from pipeline.growth.moments import steps_as_matrix
from pipeline.recipe import OptimizerConfig


def parameters_by_kind(config: PretrainedConfig) -> dict[str, int]:
    """Return a model's parameters: embeddings (a tied head's matrix among them), attention, ffn, head, norms and biases.

    Of mixtures of experts also experts, shared experts and routers, which include the gates of shared experts.
    """
    counts = dict.fromkeys(("embeddings", "attention", "ffn", "head", "norms and biases"), 0)
    for tensor, elements in _tensors(config):
        kind = _kind(tensor)
        counts[kind] = counts.get(kind, 0) + elements
    return counts


def _tensors(config: PretrainedConfig) -> Iterator[tuple[Tensor, int]]:
    graph = graph_of(config)
    for tensor in graph.tensors().values():
        if not tensor.buffer:
            yield tensor, math.prod(tensor.shape(graph.sizes))


def _kind(tensor: Tensor) -> str:
    if len(tensor.axes) == 1:
        return "norms and biases"
    if tensor.mixture is not None:
        return {"expert": "experts", "shared_expert": "shared experts", "router": "routers"}[tensor.mixture]
    if "index" in tensor.roles:
        return "embeddings"
    if tensor.group != "layer":
        return tensor.group
    return "ffn" if any("ffn" in axis.ports for axis in tensor.axes) else "attention"


def memory_by_stage(
    config: PretrainedConfig, optimizer: OptimizerConfig, dtype: torch.dtype, ranks: int
) -> dict[int, RankBytes]:
    """Return what a rank keeps of a model by ZeRO stage, 0 being none."""

    def kept(tensor: Tensor) -> int:
        # Lion keeps a momentum, and Muon does of the matrices of layers.
        return 1 if optimizer.name == "lion" or (optimizer.name == "muon" and steps_as_matrix(tensor)) else 2

    tensors = [(elements, kept(tensor)) for tensor, elements in _tensors(config)]
    return {stage: rank_bytes(tensors, ranks, stage, dtype) for stage in range(4)}
