"""How ranks are found and joined."""

from datetime import timedelta

import deepspeed
from deepspeed.accelerator import get_accelerator
from deepspeed.comm import mpi_discovery
from deepspeed.constants import TORCH_DISTRIBUTED_DEFAULT_PORT


def discover_mpi(port: str | None) -> None:
    """Set a launcher's variables by what MPI says of this process; `port` is that of rank 0, if a person named one."""
    mpi_discovery(int(port or TORCH_DISTRIBUTED_DEFAULT_PORT), verbose=False)


def init_distributed(timeout: timedelta) -> None:
    """Join the ranks by the accelerator's backend, and compile nothing for it."""
    if get_accelerator().device_name() == "cpu":
        # Shared-memory collectives are compiled at the first start, for up to 90 s and only where there is a C++ compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(get_accelerator().communication_backend_name(), auto_mpi_discovery=False, timeout=timeout)
