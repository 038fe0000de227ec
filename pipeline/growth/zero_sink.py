"""The live sink: a state written into a DeepSpeed engine's partitions, each rank its own pieces.

Under ZeRO-3 no rank ever holds a whole tensor. DeepSpeed casts its fp32 masters from the
low-precision weights when the engine is made, so a state is written twice: `fill_weights` before
`deepspeed.initialize`, `fill_masters` after it.
"""

import torch
from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param
from torch import nn

from pipeline.growth.state import Rows, State, flat


def fill_weights(model: nn.Module, state: State, rank: int) -> None:
    """Write the state into the model's weights, of which this rank may hold pieces only."""
    for name, parameter in model.named_parameters():
        if _is_partitioned(parameter):
            parameter.ds_tensor.data.copy_(_piece(parameter, state[name], rank))
        else:
            parameter.data.copy_(_whole(state[name]))


def fill_masters(model: nn.Module, state: State, rank: int) -> None:
    """Write the state into the fp32 masters, to full precision, and again into the weights beside them."""
    for name, parameter in model.named_parameters():
        if _is_partitioned(parameter):
            piece = _piece(parameter, state[name], rank)
            safe_set_local_fp32_param(parameter, piece)
            parameter.ds_tensor.data.copy_(piece)
        else:
            safe_set_full_fp32_param(parameter, _whole(state[name]).to(parameter.device))


def _is_partitioned(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "ds_tensor")


def _whole(tensor: Rows) -> torch.Tensor:
    return tensor.rows(0, tensor.shape[0])


def _piece(parameter: nn.Parameter, tensor: Rows, rank: int) -> torch.Tensor:
    """This rank's piece [rank * p, (rank + 1) * p) of the flattened tensor, p = ceil(numel / W), its tail padded with 0."""
    size = parameter.ds_tensor.numel()
    start = min(rank * size, parameter.ds_numel)
    stop = min(start + size, parameter.ds_numel)
    piece = torch.zeros(size, dtype=torch.float32, device=parameter.ds_tensor.device)
    piece[: stop - start] = flat(tensor, start, stop)
    return piece
