"""The optimizer of a run: which parameters it steps together, and by which rule."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from deepspeed.accelerator import get_accelerator
from torch import nn

from pipeline.families.graph import Model
from pipeline.families.tensors import Tensor
from pipeline.growth.moments import steps_as_matrix
from pipeline.recipe import OptimizerConfig
from pipeline.training.adamw import FreezableAdamW, OffloadedAdamW
from pipeline.training.ds_config import compute_dtype, offloads_optimizer
from pipeline.training.freezing import Freezable
from pipeline.training.lion import FreezableLion
from pipeline.training.muon import FreezableMuon, Matrix
from pipeline.training.parameter_groups import ParameterGroup, groups_of_parameters
from pipeline.training.toolchain import reach_ninja
from pipeline.training.width_rates import rate_factor


def decays(tensor: Tensor, config: OptimizerConfig) -> bool:
    """Whether a tensor decays: matrices do, norms and biases do not, and embeddings (a tied head's too) by choice."""
    return tensor.decays and (config.decay_embeddings or "index" not in tensor.roles)


def optimizer_groups(
    model: nn.Module, graph: Model, parameter_groups: Sequence[ParameterGroup], config: OptimizerConfig
) -> list[dict[str, Any]]:
    """Return the model's parameters in groups that freeze, decay and are stepped alike, in a fixed order, nothing frozen.

    Parameters with rows of different parameter groups are in one group where they have the same ones.
    """
    held, groups_of = graph.held(), groups_of_parameters(graph, parameter_groups)
    groups: dict[tuple[tuple[ParameterGroup, ...], bool, bool, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        # What one parameter joins is alike.
        tensor = held[name][0]
        own, decaying, muon = groups_of[name], decays(tensor, config), config.name == "muon" and steps_as_matrix(tensor)
        # A rate that is multiplied leaves lr x weight_decay as it is: what a step keeps of a weight depends on no width.
        factor = rate_factor(tensor, graph, config)
        decay_ratio = 1.0 / factor if decaying else 0.0
        key = own, decaying, muon, factor
        if key not in groups:
            groups[key] = {
                "params": [],
                # Without ZeRO a checkpoint has nothing else that assigns state to parameters.
                "names": [],
                # By name: a checkpoint holds nothing but tensors and plain values.
                "block": own[0].name,
                "frozen": False,
                # What the recipe's decay is multiplied by.
                "decays": decay_ratio,
                "weight_decay": config.weight_decay * decay_ratio,
                "muon": muon,
                # Muon's matrices have a rate of their own, which keeps its ratio to the others' over the steps.
                "rate_ratio": factor * ((config.muon_lr or config.lr) / config.lr if muon else 1.0),
            } | ({"momentum": config.momentum} if muon else {})
            if len(own) > 1:
                settings = {"frozen": False, "lr": config.lr, "weight_decay": groups[key]["weight_decay"]}
                groups[key]["rows"] = {each.name: dict(settings) for each in own}
        groups[key]["params"].append(parameter)
        groups[key]["names"].append(name)
    return list(groups.values())


def build_optimizer(
    graph: Model, groups: list[dict[str, Any]], config: OptimizerConfig, ds_config: dict[str, Any]
) -> Freezable:
    """Return the recipe's optimizer over `optimizer_groups`."""
    if config.name == "lion":
        return FreezableLion(groups, lr=config.lr, betas=config.betas)
    options = {"lr": config.lr, "betas": config.betas, "eps": config.eps}
    if config.name == "muon":
        held = graph.held()
        tensors = [tensor for group in groups if group["muon"] for name in group["names"] for tensor in held[name]]
        matrices = {
            tensor.name: Matrix.of(tensor, graph.sizes, spectral=config.width_rates == "spectral") for tensor in tensors
        }
        # Newton and Schulz's iteration bears bf16; a run in fp32 is to give equal losses at any number of ranks.
        dtype = torch.float32 if compute_dtype(ds_config) is torch.float32 else torch.bfloat16
        return FreezableMuon(groups, matrices, dtype, **options)
    # Without an accelerator nothing is offloaded in truth, and torch's fused AdamW is as fast without being compiled.
    if offloads_optimizer(ds_config) and get_accelerator().device_name() != "cpu":
        reach_ninja()
        try:
            return OffloadedAdamW(groups, **options)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            logging.getLogger(__name__).warning(
                "DeepSpeed's CPU Adam cannot be built (%s), and torch's AdamW, which is slower, is used; it needs Debian's "
                "packages g++ and python3-dev",
                reason,
            )
    return FreezableAdamW(groups, **options)
