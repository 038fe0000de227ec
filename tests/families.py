"""Families that tests go through."""

from torch import nn

from pipeline.families import TRAINED, ActiveLayers, Family, has_key
from pipeline.families.tensors import Tensor
from pipeline.training.parameter_groups import token_tables

DENSE = [name for name, family in TRAINED.items() if not has_key(family.config_class, "num_experts")]
"""Those that are trained and are no mixtures of experts."""

WITH_A_MIXTURE = [*DENSE, "qwen2_moe"]
"""The same and one mixture, for what does not depend on how experts are chosen."""


def learns(active: ActiveLayers, tensor: Tensor) -> bool:
    """Whether all of a tensor learns."""
    if tensor.layer is None:
        return active.embeddings if tensor.group == "embeddings" else active.head
    experts = set() if tensor.expert is None else {tensor.expert}
    return tensor.layer in active.layers or active.mixture_learns(tensor.mixture, experts)


def let_learn(model: nn.Module, family: Family, active: ActiveLayers) -> None:
    """Have gradients of what learns, and of the matrices with rows that do, and of nothing else."""
    graph = family.graph(model.config)
    held = graph.held()
    tables = {tensor.name for tensor in token_tables(graph)} if active.new_tokens else set()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(learns(active, tensor) for tensor in held[name]) or name in tables)
