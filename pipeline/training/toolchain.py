"""What compiling needs of the system: checked before it is needed, since the errors of compilers hardly name it."""

import logging
import os
import shutil
import sysconfig
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

from pipeline.common.errors import UserError
from pipeline.deepspeed.kernels import chunked_cross_entropy, triton_backend_available


def check_toolchain(origin: str, otherwise: str, *, device: str = "cpu") -> None:
    """Raise UserError where nothing can be compiled for this Python and a kind of device: by torch.compile or by DeepSpeed.

    `origin` is what the sentence begins with, and `otherwise` what a person may do instead.
    """
    missing = missing_tool(device)
    if missing is not None:
        raise UserError(f"{origin} needs {missing}, or {otherwise}")


def missing_tool(device: str) -> str | None:
    """Return what compiling for a kind of device lacks, and how it is had; None where it lacks nothing.

    For a CPU it takes C++; for GPUs Triton makes the kernels, and compiles what starts them from C.
    """
    if device == "cpu":
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            return f"a C++ compiler, and there is no {compiler}; install it (Debian's package is g++), name another by CXX"
    elif device in ("cuda", "xpu"):
        if find_spec("triton") is None:
            return "Triton, and this torch came without it; install the Python package triton of the version that torch names"
        named = os.environ.get("CC")
        if not any(shutil.which(compiler) for compiler in ([named] if named else ["gcc", "clang"])):
            return f"a C compiler, and there is no {named or 'gcc'}; install it (Debian's package is gcc), name another by CC"
    else:
        return None
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        return f"Python's headers, and there is no {header}; install them (Debian's package is python3-dev)"
    return None


def reach_ninja() -> bool:
    """Put the Python package's ninja on PATH where none is; return whether there is one.

    DeepSpeed builds its extensions by it, and searches PATH alone.
    """
    if shutil.which("ninja") is None and find_spec("ninja") is not None:
        import ninja

        if ninja.BIN_DIR:
            os.environ["PATH"] = os.pathsep.join(filter(None, [os.environ.get("PATH"), ninja.BIN_DIR]))
    return shutil.which("ninja") is not None


@cache
def triton_runs(device: torch.device) -> bool:
    """Whether kernels can be compiled by Triton for a device and run there; where not, a warning is logged once.

    Never on a CPU, where kernels are fused otherwise.
    """
    if device.type == "cpu":
        return False
    reason = "Triton has no driver for this device"
    if triton_backend_available():
        logits = torch.zeros(1, 2, device=device, requires_grad=True)
        try:
            # Triton compiles at the first call, with the system's C compiler.
            with torch.enable_grad():
                loss = chunked_cross_entropy(logits, torch.zeros(1, dtype=torch.long, device=device), backend="triton")
            torch.autograd.grad(loss, logits)
        except Exception as error:
            # Whatever Triton, its compiler or the driver raise: there is another way.
            reason = (str(error) or type(error).__name__).splitlines()[0]
        else:
            return True
    logging.getLogger(__name__).warning(
        "the loss and the optimizer run without fused kernels, which takes longer, since Triton cannot compile (%s); it needs "
        "a C compiler and Python's headers, Debian's packages gcc and python3-dev",
        reason,
    )
    return False
