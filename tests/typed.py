"""Command lines as they are typed, started by this interpreter: where its scripts lie, and whether any do, is not asked."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def typed(words: Sequence[str]) -> list[str]:
    """Return what starts a command line, `python`, `deepspeed` and `mpiexec` being this environment's.

    The test is skipped where there is no mpiexec.
    """
    if words[0] == "deepspeed":
        return [sys.executable, "-m", "deepspeed.launcher.runner", *words[1:]]
    if words[0] == "mpiexec":
        if MPIEXEC is None:
            pytest.skip("no mpiexec here: the Python package mpich has one")
        words = [MPIEXEC, *words[1:]]
    return [sys.executable if word == "python" else word for word in words]
