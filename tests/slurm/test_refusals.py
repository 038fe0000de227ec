"""Wrong use, answered in a sentence."""

import sys

import pytest

from tests.slurm.cluster import ROOT
from tests.slurm.conftest import PRETRAIN, TWO_NODES

pytestmark = pytest.mark.slurm


def refusal(job) -> str:
    """The one line, of what the job's own programs said, with which it was refused."""
    ended = job.wait()
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "2:0"), job.account()
    lines = [line for line in job.log.splitlines() if not line.startswith(("srun: ", "slurmstepd-", "job "))]
    assert len(lines) == 1, job.log
    return lines[0]


def test_no_recipe(toy, cluster, tmp_path):
    toy = toy()
    words = (f"--output={tmp_path}/log", PRETRAIN, "--ds_config", str(toy.ds_config))
    job = cluster.submit(*words, **toy.environment())
    assert "no recipe; name one with --recipe" in refusal(job)


def test_a_folder_that_is_not_the_repository(toy, cluster, tmp_path):
    toy = toy()
    job = cluster.submit(f"--output={tmp_path}/log", str(ROOT / PRETRAIN), *toy.arguments, cwd=tmp_path, **toy.environment())
    assert f"{tmp_path}/launch/slurm/job.sh: not readable on n" in (sentence := refusal(job)) and "PROJECT_ROOT" in sentence


_UNREADABLE_ON_N2 = """
import os, sys

def audit(event, arguments):
    if event == "open" and str(arguments[0]).startswith({folder!r}):
        raise PermissionError(13, "Permission denied", str(arguments[0]))

if os.environ.get("SLURMD_NODENAME") == "n2":
    sys.addaudithook(audit)
"""


def test_data_that_one_node_cannot_read_and_which_node_that_is(prepared, toy, cluster, planted):
    code = _UNREADABLE_ON_N2.format(folder=str(prepared.directory))
    sentence = refusal(toy().submit(cluster, PYTHONPATH=planted(code)).job)
    assert sentence.startswith(f"node n2: {prepared.directory}") and "Permission denied" in sentence


_ONE_DEVICE_A_NODE = """
import sys
from types import SimpleNamespace

def audit(event, arguments):
    distributed = sys.modules.get("pipeline.training.distributed")
    if hasattr(distributed, "join"):
        one = SimpleNamespace(device_name=lambda: "cuda", device_count=lambda: 1)
        distributed.get_accelerator = lambda: one

sys.addaudithook(audit)
"""


def test_more_ranks_than_devices_on_one_node_and_the_ranks_of_both_leave(toy, cluster, planted):
    submitted = toy().submit(cluster, options=("--nodes=2", "--ntasks=3"), PYTHONPATH=planted(_ONE_DEVICE_A_NODE))
    assert refusal(submitted.job).startswith("node n1: LOCAL_RANK 1 is beyond its 1 device")


def test_tasks_that_do_not_know_of_each_other(toy, cluster, tmp_path):
    """`srun python` without anything that tells the tasks their ranks: each would train alone."""
    toy = toy()
    command = f"srun {sys.executable} launch/pretrain.py {' '.join(toy.arguments)}"
    job = cluster.submit(f"--output={tmp_path}/log", *TWO_NODES, "--wrap", command, **toy.environment())
    ended = job.wait()
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "2:0"), job.account()
    assert "Slurm started 2 tasks, and DeepSpeed sees 1 rank in 1 task of them" in job.log
    assert not (tmp_path / "run").exists()


def test_a_chain_with_a_recipe_that_is_wrong_is_not_submitted(toy, cluster):
    toy = toy(stages=[{"name": "full", "stepz": 3}])
    words = ["bash", "launch/slurm/pipeline.sh", "--train", str(toy.recipe), "--ds_config", str(toy.ds_config)]
    before = cluster.client("squeue", "--noheader", "--states=all")
    ended = cluster.attempt(*words, **toy.environment())
    assert ended.returncode == 2
    assert "stepz" in ended.stderr and ended.stderr.count("\n") == 1, ended.stderr
    assert cluster.client("squeue", "--noheader", "--states=all").count("\n") == before.count("\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--evaluate", "--data here"], "--evaluate begins with --data; name the tasks first"),
        (["--evaluate"], "--evaluate needs a value"),
        (["--evaluation_job", "-n1"], "--evaluation_job: no such option"),
        (["--evaluate", "text:'a file"], "--evaluate: cannot be split into words; close its quotes"),
    ],
)
def test_a_chain_with_an_option_that_is_wrong_is_not_submitted(words, sentence, cluster):
    ended = cluster.attempt("bash", "launch/slurm/pipeline.sh", "--train", "R", "--ds_config", "C", *words)
    assert ended.returncode == 2
    assert sentence in ended.stderr and ended.stderr.count("\n") == 1, ended.stderr
