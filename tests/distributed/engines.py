"""What the tests of live engines share."""

import torch
from deepspeed.utils import safe_get_full_fp32_param


def full_weight(parameter: torch.nn.Parameter) -> torch.Tensor:
    """Return one parameter's fp32 master whole, gathered by DeepSpeed; a collective call."""
    whole = safe_get_full_fp32_param(parameter)
    # Stage 0 has no masters beside the weights.
    whole = parameter.detach() if whole is None else whole
    return whole.float().cpu().reshape(getattr(parameter, "ds_shape", parameter.shape))
