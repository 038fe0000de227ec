"""Ranks that MPI starts, by DeepSpeed's launcher and without it."""

import os
from pathlib import Path

import pytest

from tests.end_to_end.conftest import FP32
from tests.ranks import free_port
from tests.typed import typed


@pytest.mark.full
@pytest.mark.parametrize("launcher", ["mpich", "mpiexec"])
def test_the_ranks_know_of_each_other(launcher, launch, recipe, undisturbed, tmp_path, monkeypatch):
    """`mpiexec` says no RANK, as `deepspeed --launcher openmpi` does not."""
    # mpirun lies beside mpiexec.
    mpiexec, *_ = typed(["mpiexec"])
    monkeypatch.setenv("PATH", f"{Path(mpiexec).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    hosts, ds_config = tmp_path / "hosts", tmp_path / "ds.json"
    hosts.write_text("localhost slots=2\n")
    ds_config.write_text(str(FP32).replace("'", '"'))
    path = recipe()
    words = {
        "mpich": ["deepspeed", "--hostfile", str(hosts), "--force_multi", "--no_ssh_check", "--launcher", "mpich"],
        "mpiexec": ["mpiexec", "-n", "2", "python"],
    }[launcher]
    if launcher == "mpich":
        words += ["--master_addr", "127.0.0.1"]
    run = launch.command([*words, "launch/pretrain.py", "--ds_config", str(ds_config), "--recipe", str(path)], tmp_path / "run")
    finished = run.finish()
    assert len(finished.summary["peak_memory"]) == 2
    # Sums over two ranks round otherwise than on one.
    assert finished.losses == pytest.approx(undisturbed.losses, rel=1e-5)
