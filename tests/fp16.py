"""Tests in fp16, which not every CPU computes."""

import pytest
import torch
from deepspeed.accelerator import get_accelerator

FP16 = pytest.param(
    torch.float16,
    marks=pytest.mark.skipif(
        not get_accelerator().is_fp16_supported(), reason="this machine's processor has no fp16 of its own"
    ),
)
