"""What compiling needs of the system: looked for before a run begins, since what compiles says little of what it misses."""

import os
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from data_prep.errors import UserError


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

    DeepSpeed builds its extensions by it, and looks for it there alone.
    """
    if shutil.which("ninja") is None and find_spec("ninja") is not None:
        import ninja

        if ninja.BIN_DIR:
            os.environ["PATH"] = os.pathsep.join(filter(None, [os.environ.get("PATH"), ninja.BIN_DIR]))
    return shutil.which("ninja") is not None
