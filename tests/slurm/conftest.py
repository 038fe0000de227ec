"""A Slurm for each worker's session, one for a test that breaks it, and toy runs that are submitted to it."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from data_prep.manifest import PreparedData
from tests.end_to_end.conftest import FP32, Finished, launch, write_recipe
from tests.slurm.cluster import Cluster, Job, missing, running_cluster

__all__ = ["launch"]

PRETRAIN = "launch/slurm/pretrain.sbatch"
TWO_NODES = ("--nodes=2", "--ntasks-per-node=1")
# Saved often; long enough for a signal to find it training.
STAGES = [{"name": "submodels", "submodel_layers": 2, "steps": 6}, {"name": "full", "steps": 40}]


def _skip_without_slurm() -> None:
    if missing():
        pytest.skip(f"{', '.join(missing())} not installed; `make test-slurm` installs them on Debian, as root")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes, shared by the tests that leave them as they were."""
    _skip_without_slurm()
    with running_cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes for one test that kills one, which is given up soon."""
    _skip_without_slurm()
    with running_cluster(tmp_path_factory.mktemp("slurm"), node_timeout=5) as running:
        yield running


@dataclass(frozen=True)
class Submitted:
    """A training job and the run that it makes."""

    job: Job
    run_dir: Path

    @property
    def run(self) -> Finished:
        """What the run directory says, whether or not the job has ended."""
        return Finished(0, self.job.log, "", self.run_dir)

    def wait_for_step(self, step: int) -> None:
        """Wait until a step is recorded."""
        self.job.wait_for_lines(self.run_dir / "metrics.jsonl", step)

    def finish(self, state: str = "COMPLETED", timeout: float = 180) -> Finished:
        """Wait for the end; raises AssertionError, with the log, where it is another than expected."""
        assert self.job.wait(timeout)["JobState"] == state, self.job.account()
        return self.run


@dataclass(frozen=True)
class Toy:
    """The toy recipe in a folder of its own."""

    directory: Path
    recipe: Path
    ds_config: Path

    @property
    def arguments(self) -> list[str]:
        """What launch/pretrain.py is given."""
        return ["--recipe", str(self.recipe), "--ds_config", str(self.ds_config)]

    def environment(self, **more: str) -> dict[str, str]:
        """What a job is submitted with: this interpreter, no GPU, no caches outside of the folder."""
        caches = self.directory / "tmp"
        caches.mkdir(exist_ok=True)
        ours = {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "TMPDIR": str(caches)}
        # Over UCX pip's MPICH has been seen to give Slurm's pmi2 a broken address.
        ours["MPIR_CVAR_CH4_NETMOD"] = "ofi"
        return ours | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")} | more

    def submit(self, cluster: Cluster, *overrides: str, options: tuple[str, ...] = TWO_NODES, **environment: str) -> Submitted:
        """Submit pretrain.sbatch from the repository's root."""
        log = f"--output={self.directory}/%x-%j.log"
        words = (log, *options, PRETRAIN, *self.arguments, *overrides)
        return Submitted(cluster.submit(*words, **self.environment(**environment)), self.directory / "run")


def _toy(directory: Path, prepared: PreparedData, **changes: object) -> Toy:
    ds_config = directory / "ds_config.json"
    ds_config.write_text(json.dumps(FP32))
    return Toy(directory, write_recipe(directory, prepared, **({"stages": STAGES} | changes)), ds_config)


@pytest.fixture
def toy(prepared: PreparedData, tmp_path: Path) -> Callable[..., Toy]:
    """Write the toy recipe, with changes, into the test's own folder."""
    return partial(_toy, tmp_path, prepared)


@pytest.fixture(scope="session")
def undisturbed(launch, prepared: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The toy run on two ranks of this machine, without Slurm."""
    return launch(_toy(tmp_path_factory.mktemp("undisturbed"), prepared).recipe, ranks=2).finish()


@pytest.fixture
def planted(tmp_path: Path) -> Callable[[str], str]:
    """Have every Python of a job run some code as it starts: `PYTHONPATH=planted(code)`."""

    def plant(code: str) -> str:
        folder = tmp_path / "planted"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(code)
        return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])

    return plant
