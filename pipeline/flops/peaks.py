"""What a device could do at most: from its maker's data sheet where it is known, measured where it is not."""

import re
import time
from dataclasses import dataclass
from typing import Literal

import torch

Precision = Literal["half", "tf32", "fp32"]

TERA = 10**12

# Dense matrix products, in TFLOP/s. NVIDIA's sheets print twice the figure, "with sparsity", for all but fp32.
# `half` is bf16 and fp16 alike; `fp32` is what products of float32 run at in full precision: NVIDIA's vector units, AMD's
# matrix cores; `tf32` is what they run at where torch may round their factors to TF32, which it does not by default.
_DATA_SHEETS: tuple[tuple[re.Pattern[str], dict[Precision, float]], ...] = (
    # H100 Tensor Core GPU data sheets: SXM5 and NVL (2024), PCIe (2022); the SXM5's halves to one more digit as in the
    # H100 architecture white paper. An SXM5 calls itself "H100 80GB HBM3". H200 data sheet: the H100's chip with other memory.
    (re.compile(r"\bH100 PCIe\b"), {"half": 756.5, "tf32": 378.0, "fp32": 51.0}),
    (re.compile(r"\bH[12]00 NVL\b"), {"half": 835.5, "tf32": 417.5, "fp32": 60.0}),
    (re.compile(r"\bH100 (SXM|.*HBM3\b)|\bH200\b"), {"half": 989.4, "tf32": 494.7, "fp32": 66.9}),
    # A100 Tensor Core GPU data sheet: PCIe and SXM, 40 and 80 GB, alike.
    (re.compile(r"\bA100\b"), {"half": 312.0, "tf32": 156.0, "fp32": 19.5}),
    # L40S data sheet.
    (re.compile(r"\bL40S\b"), {"half": 362.05, "tf32": 183.0, "fp32": 91.6}),
    # AMD Instinct MI300X data sheet.
    (re.compile(r"\bMI300X\b"), {"half": 1307.4, "tf32": 653.7, "fp32": 163.4}),
)

_SHARED = re.compile(r"\bMIG\b|\bGRID\b")
"""In the names of slices of a device, whose peak is not the whole device's."""

_MEASURING_SECONDS = 0.8
_SIZE_SECONDS = 0.1
"""Of one size at least: on a busy machine most products are interrupted, and the fastest is looked for."""
_SMALLEST, _LARGEST = 512, 8192
"""Smaller products are further from the peak than these."""
_TIMES = 4


@dataclass(frozen=True, slots=True)
class Peak:
    """The most FLOP/s that one device can do in the precision of a run."""

    flops_per_second: float
    origin: Literal["data sheet", "measured", "recipe"]

    def utilization(self, model_flops: int, seconds: float, ranks: int) -> float:
        """Return the MFU: the share of `ranks` devices' peak that `model_flops` in `seconds` come to."""
        return model_flops / (seconds * ranks * self.flops_per_second)


def find_peak(device: torch.device, dtype: torch.dtype, given_tflops: float | None) -> Peak:
    """Return the peak that the recipe gives, else the data sheet's, else a measured one.

    Ranks that share a CPU should measure at the same time, so that each finds its share.
    """
    if given_tflops is not None:
        return Peak(given_tflops * TERA, "recipe")
    known = device_peak(torch.cuda.get_device_name(device), dtype) if device.type == "cuda" else None
    return Peak(measured_peak(device, dtype), "measured") if known is None else Peak(known, "data sheet")


def device_peak(name: str, dtype: torch.dtype) -> float | None:
    """Return the FLOP/s on the data sheet of the device that calls itself `name`; None where no sheet is at hand.

    For float32 it is the TF32 figure where torch allows matrix products to use it.
    """
    if _SHARED.search(name):
        return None
    precision: Precision | None = "half" if dtype in (torch.bfloat16, torch.float16) else None
    if dtype == torch.float32:
        precision = "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "fp32"
    for pattern, sheet in _DATA_SHEETS:
        if precision is not None and pattern.search(name):
            return sheet[precision] * TERA
    return None


@torch.no_grad()
def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of the best of some square matrix products, in about a second on one CPU core."""
    begin, best, size = time.monotonic(), 0.0, _SMALLEST
    while True:
        factor = torch.ones(size, size, device=device, dtype=dtype)
        taken = [_seconds(factor) for _ in range(_TIMES)]
        while sum(taken) < _SIZE_SECONDS:
            taken.append(_seconds(factor))
        best = max(best, 2 * size**3 / min(taken))
        size *= 2
        # The next size takes about 8 times as long, each time.
        if size > _LARGEST or time.monotonic() - begin + 8 * _TIMES * min(taken) > _MEASURING_SECONDS:
            return best


def _seconds(factor: torch.Tensor) -> float:
    began = time.monotonic()
    # Reading an element waits for the device, whichever it is.
    (factor @ factor)[0, 0].item()
    return time.monotonic() - began
