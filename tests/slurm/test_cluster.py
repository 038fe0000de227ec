"""The throw-away Slurm itself, with batch scripts of a few lines."""

import subprocess
import sys
import textwrap

import psutil
import pytest

from tests.slurm.cluster import wait_for

pytestmark = pytest.mark.slurm


@pytest.fixture
def script(tmp_path):
    """Write a batch script."""

    def write(body: str, *directives: str) -> str:
        path = tmp_path / "job.sh"
        path.write_text("#!/bin/bash\n" + "".join(f"#SBATCH {line}\n" for line in directives) + textwrap.dedent(body))
        return str(path)

    return write


def test_a_step_has_a_task_on_each_node(cluster, script, tmp_path):
    job = cluster.submit(f"--output={tmp_path}/log", "--nodes=2", script("srun printenv SLURMD_NODENAME\n"))
    assert job.wait()["JobState"] == "COMPLETED"
    assert sorted(job.log.split()) == ["n1", "n2"]


# What is built on it, in test_pretrain.py, would fail too.
@pytest.mark.full
def test_a_signalled_batch_shell_has_itself_requeued_under_the_same_number(cluster, script, tmp_path):
    body = """\
        trap 'scontrol requeue $SLURM_JOB_ID' USR1
        echo attempt ${SLURM_RESTART_COUNT:-0}
        [ "$SLURM_RESTART_COUNT" = 1 ] || { sleep 60 & wait; sleep 60; }
        """
    job = cluster.submit(f"--output={tmp_path}/log", script(body, "--requeue", "--open-mode=append"))
    job.wait_for_lines(tmp_path / "log", 1)
    job.signal("USR1")
    ended = job.wait()
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1")
    assert [line for line in job.log.splitlines() if line.startswith("attempt")] == ["attempt 0", "attempt 1"]


_KILLED_TESTS = """
import sys, time
from pathlib import Path
from tests.slurm.cluster import Cluster
directory = Path(sys.argv[1])
cluster = Cluster(directory)
job = cluster.submit("--output=/dev/null", "--wrap", f"srun sh -c 'echo > {directory}/running; exec sleep 600'")
job.wait_for_lines(directory / "running", 1)
print("ready", flush=True)
time.sleep(600)
"""


def test_nothing_outlives_tests_that_are_killed(cluster, tmp_path):
    """The shared cluster is asked for only to skip this where there can be none."""
    tests = subprocess.Popen([sys.executable, "-c", _KILLED_TESTS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert tests.stdout.readline() == "ready\n"
        started = psutil.Process(tests.pid).children(recursive=True)
        assert {"munged", "slurmctld", "slurmd", "slurmstepd", "srun", "sleep"} <= {process.name() for process in started}
    finally:
        tests.kill()
        tests.wait()
    wait_for(lambda: not any(process.is_running() for process in started), lambda: str(started), 10)
