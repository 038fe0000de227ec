"""What a tensor's learning rate is of the recipe's, by the model's width, so that one rate serves models of several widths."""

import math
from collections import Counter
from fractions import Fraction

from pipeline.common.errors import UserError
from pipeline.families.graph import Model
from pipeline.families.tensors import RESIDUAL, Tensor
from pipeline.growth.moments import steps_as_matrix
from pipeline.recipe import OptimizerConfig


def rate_factor(tensor: Tensor, graph: Model, config: OptimizerConfig) -> float:
    """Return what the recipe's rate is multiplied by for a tensor of a model.

    `mup`: Yang et al. 2022 (2203.03466), table 3, row Adam LR: 1 / fan_in for hidden and output matrices, relative to a base
    model of the same proportions, whose every fan-in is base_width / hidden_size of this one's; 1 for embeddings and vectors.
    `spectral`: Yang, Simon and Bernstein 2023 (2310.17813), condition 1: updates of spectral norm sqrt(fan_out / fan_in). Those
    of Adam and Lion, whose elements are near 1, have sqrt(fan_out fan_in) before the rate, so that is base_width / fan_in: a
    matrix that reads base_width channels has the recipe's. Muon's matrices have that norm by `muon_scale`.
    """
    if config.base_width is None or (config.name == "muon" and steps_as_matrix(tensor)):
        return 1.0
    fan_in = graph.fan_in(tensor)
    if fan_in == 1:
        return 1.0
    return config.base_width / (graph.sizes[RESIDUAL] if config.width_rates == "mup" else fan_in)


def described(graph: Model, config: OptimizerConfig) -> str:
    """Return how many of a model's parameters have which multiple of the recipe's rate."""
    counts: Counter[float] = Counter()
    for tensor in graph.tensors().values():
        if not tensor.buffer:
            counts[rate_factor(tensor, graph, config)] += math.prod(tensor.shape(graph.sizes))
    return ", ".join(f"x {factor:.4g} for {count:,} parameters" for factor, count in sorted(counts.items(), reverse=True))


def check_proportions(before: Model, after: Model, config: OptimizerConfig, where: str) -> None:
    """Raise UserError where `mup` does not know the base model's fan-ins: a growth changes the proportions of a model."""
    if config.width_rates != "mup":
        return
    known, new = _proportions(before), _proportions(after)
    for name, proportion in new.items():
        # What the source has by no such name (experts, an output matrix of its own) is to be like something of it.
        if proportion not in ([known[name]] if name in known else known.values()):
            raise UserError(
                f"{where.removesuffix('.')}: each output of {name} sums {float(proportion):.4g} times hidden_size numbers, and "
                "before this growth it does not; optimizer.width_rates: mup takes all models of a run to have the proportions "
                "of the one that `lr` was found for; keep them, or choose width_rates: spectral"
            )


def _proportions(graph: Model) -> dict[str, Fraction]:
    """The fan-in of each matrix as a multiple of the width."""
    fan_ins = {tensor.name: graph.fan_in(tensor) for tensor in graph.tensors().values()}
    return {name: Fraction(fan_in, graph.sizes[RESIDUAL]) for name, fan_in in fan_ins.items() if fan_in > 1}
