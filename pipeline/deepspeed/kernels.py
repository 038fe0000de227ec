"""DeepSpeed's compiled kernels: the loss in Triton, Adam on CPUs, and whether asynchronous reads can be compiled."""

import itertools

import torch
from deepspeed.ops.op_builder import AsyncIOBuilder, CPUAdamBuilder
from deepspeed.runtime.chunked_cross_entropy import chunked_cross_entropy, triton_backend_available

__all__ = ["CPUAdam", "chunked_cross_entropy", "compiles_async_io", "triton_backend_available"]


def compiles_async_io() -> bool:
    """Whether libaio's headers are there, against which reads and writes of a disk are compiled."""
    return AsyncIOBuilder().is_compatible(verbose=False)


class CPUAdam:
    """The kernel of DeepSpeed's CPU Adam; raises RuntimeError where it is not built and cannot be."""

    _numbers = itertools.count(1 << 20)
    """Names of the kernel's objects; DeepSpeed's own optimizers count from 0."""

    def __init__(self) -> None:
        self._kernel = CPUAdamBuilder().load(verbose=False)
        self._number = next(self._numbers)
        self._kernel.create_adam(self._number, 0.0, 0.0, 0.0, 0.0, 0.0, True, False)

    def __del__(self) -> None:
        if hasattr(self, "_number"):
            self._kernel.destroy_adam(self._number)

    def update(
        self,
        step: int,
        betas: tuple[float, float],
        rate: float,
        eps: float,
        decay: float,
        *tensors: torch.Tensor,
    ) -> None:
        """Step weights by their gradients and two moments, in place, without bias correction."""
        self._kernel.adam_update(self._number, step, rate, *betas, eps, decay, False, *tensors)
