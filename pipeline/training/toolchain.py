"""What compiling needs of the system: looked for before a run begins, since what compiles says little of what it misses."""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from data_prep.errors import UserError


def check_toolchain(origin: str, otherwise: str) -> None:
    """Raise UserError where C++ cannot be compiled for this Python: by torch.compile, or for DeepSpeed's extensions.

    `origin` is what the sentence begins with, and `otherwise` what a person may do instead.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise UserError(
            f"{origin} needs a C++ compiler, and there is no {compiler}; install it (Debian's package is g++), name another by "
            f"CXX, or {otherwise}"
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        raise UserError(
            f"{origin} needs Python's headers, and there is no {header}; install them (Debian's package is python3-dev), or "
            f"{otherwise}"
        )


def reach_ninja() -> bool:
    """Put the environment's ninja on PATH where none is, as activating it does; return whether there is one.

    DeepSpeed builds its extensions by it, and looks for it there alone.
    """
    own = Path(sys.prefix) / "bin"
    if shutil.which("ninja") is None and (own / "ninja").is_file():
        os.environ["PATH"] = os.pathsep.join(filter(None, [os.environ.get("PATH"), str(own)]))
    return shutil.which("ninja") is not None
