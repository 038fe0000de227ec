"""Training jobs: signalled, requeued, cancelled, failing, and on a node that dies."""

import re

import psutil
import pytest

from tests.slurm.cluster import NODES
from tests.slurm.conftest import TWO_NODES, Submitted

pytestmark = pytest.mark.slurm

# Ranks of another number add the batch's gradients in another order; 54 steps in fp32. A moment or a step lost shows as 1e-3.
ANOTHER_ORDER = 1e-5


def _resumed_from(submitted: Submitted) -> int:
    """The step from which the job's second attempt went on."""
    (step,) = re.findall(r"continues from its checkpoint of step (\d+)", submitted.job.log)
    return int(step)


def _requeued(submitted: Submitted) -> int:
    """Signal a job during its steps; return how many it has taken when it waits to go on."""
    submitted.wait_for_step(20)
    submitted.job.signal("USR1")
    submitted.job.wait_for_state("PENDING", restarts=1)
    return len(submitted.run.metrics)


# Jobs of two nodes that are disturbed, below, have these losses too.
@pytest.mark.full
def test_two_nodes_train_as_two_ranks_of_one_machine(undisturbed, toy, cluster):
    submitted = toy().submit(cluster)
    finished = submitted.finish()
    assert f"job {submitted.job.id}, restart 0, nodes n[1-2], 2 ranks" in finished.output
    assert finished.losses == undisturbed.losses
    assert finished.evaluations == undisturbed.evaluations


def test_signalled_the_job_saves_is_requeued_and_its_losses_are_the_undisturbed_runs(undisturbed, toy, cluster):
    submitted = toy().submit(cluster)
    steps = _requeued(submitted)
    assert steps < len(undisturbed.metrics)
    resumed = submitted.finish()
    assert submitted.job.fields["Restarts"] == "1"
    assert _resumed_from(submitted) == steps, "nothing that was done is done again"
    for attempt in (0, 1):
        assert f"job {submitted.job.id}, restart {attempt}, nodes n[1-2], 2 ranks" in resumed.output, "the log is appended to"
    assert [record["step"] for record in resumed.metrics] == list(range(1, len(undisturbed.metrics) + 1))
    assert resumed.losses == undisturbed.losses
    assert resumed.evaluations == undisturbed.evaluations
    assert resumed.metrics[-1]["flops_total"] == undisturbed.metrics[-1]["flops_total"]
    assert resumed.summary["losses"] == undisturbed.summary["losses"]


def test_a_job_that_waits_is_given_fewer_nodes_and_goes_on_with_them(undisturbed, toy, cluster):
    submitted = toy().submit(cluster, options=("--nodes=2",))
    steps = _requeued(submitted)
    cluster.client("scontrol", "update", f"job={submitted.job.id}", "NumNodes=1")
    resumed = submitted.finish()
    assert f"job {submitted.job.id}, restart 0, nodes n[1-2], 2 ranks" in resumed.output
    assert re.search(rf"job {submitted.job.id}, restart 1, nodes n[12], 1 rank\n", resumed.output)
    assert _resumed_from(submitted) == steps
    assert resumed.losses[:steps] == undisturbed.losses[:steps]
    assert resumed.losses == pytest.approx(undisturbed.losses, rel=ANOTHER_ORDER)


# Longer than two minutes in all; the attempt after it is as fast as ever.
_SLOW_AT_FIRST = """
import os, sys, time

def audit(event, arguments):
    loop = sys.modules.get("pipeline.training.loop.loop")
    if hasattr(loop, "Trainer") and not hasattr(loop, "slowed"):
        loop.slowed = backward = sys.modules["torch"].Tensor.backward
        def slow(*arguments, **options):
            time.sleep(2.5)
            return backward(*arguments, **options)
        sys.modules["torch"].Tensor.backward = slow

if "SLURM_PROCID" in os.environ and "SLURM_RESTART_COUNT" not in os.environ:
    sys.addaudithook(audit)
"""


@pytest.mark.full
def test_as_the_time_limit_nears_the_job_saves_and_has_itself_requeued(undisturbed, toy, cluster, planted):
    """Slurm looks twice a minute whose time comes: with 10 s the signal is 10 to 40 s early."""
    limit = ("--time=2", "--signal=B:USR1@10")
    submitted = toy().submit(cluster, options=(*TWO_NODES, *limit), PYTHONPATH=planted(_SLOW_AT_FIRST))
    resumed = submitted.finish(timeout=280)
    fields = submitted.job.fields
    assert (fields["TimeLimit"], fields["Restarts"]) == ("00:02:00", "1")
    assert "stopped at a signal; requeueing" in resumed.output and "DUE TO TIME LIMIT" not in resumed.output
    assert 0 < _resumed_from(submitted) < len(undisturbed.metrics)
    assert resumed.losses == undisturbed.losses


# n1 runs the batch script and the first rank.
@pytest.mark.parametrize("victim", ["n2", pytest.param("n1", marks=pytest.mark.full)])
def test_a_node_dies_and_the_job_goes_on_without_it_from_its_last_checkpoint(undisturbed, toy, own_cluster, victim):
    submitted = toy().submit(own_cluster, options=("--nodes=1-2",))
    # The toy recipe saves every fifth step, before the next one begins.
    submitted.wait_for_step(21)
    own_cluster.kill(victim)
    resumed = submitted.finish()
    fields = submitted.job.fields
    assert fields["Restarts"] == "1"
    (left,) = {*NODES} - {victim}
    assert f"job {submitted.job.id}, restart 1, nodes {left}, 1 rank" in resumed.output
    step = _resumed_from(submitted)
    assert step >= 20, "nothing is lost but the steps since the last checkpoint"
    assert [record["step"] for record in resumed.metrics] == list(range(1, len(undisturbed.metrics) + 1))
    assert resumed.losses[:step] == undisturbed.losses[:step]
    assert resumed.losses == pytest.approx(undisturbed.losses, rel=ANOTHER_ORDER)


# At its next backward pass: an exception in the middle of a write would be taken for the disk's.
_FAILS_WHEN_TOLD = """
import os, signal, sys

def fault(*arguments, **options):
    raise RuntimeError("a fault of rank 1 alone")

def on_signal(number, frame):
    if os.environ["SLURM_PROCID"] == "1":
        sys.modules["torch"].Tensor.backward = fault

if "SLURM_PROCID" in os.environ:
    signal.signal(signal.SIGUSR2, on_signal)
"""


def test_a_rank_that_fails_ends_the_job_with_its_traceback_and_leaves_no_task(toy, cluster, planted):
    submitted = toy().submit(cluster, PYTHONPATH=planted(_FAILS_WHEN_TOLD))
    submitted.wait_for_step(10)
    cluster.client("scancel", "--signal=USR2", f"{submitted.job.id}.0")
    # What hangs is killed by Slurm after five minutes, here.
    failed = submitted.finish("FAILED", timeout=60)
    assert "Traceback" in failed.output and "RuntimeError: a fault of rank 1 alone" in failed.output
    assert submitted.job.fields["Restarts"] == "0", "a fault would be met again"
    assert not [process for process in psutil.process_iter() if _belongs(process, submitted.job.id)]


def _belongs(process: psutil.Process, job: str) -> bool:
    try:
        return process.environ().get("SLURM_JOB_ID") == job
    except psutil.Error:
        return False


# As the engine is built, before anything is trained. The healthy rank is where a signal reaches it.
_FAILS_AT_THE_START = """
import os, sys, time

def build(*arguments):
    if os.environ["SLURM_PROCID"] == "1":
        time.sleep(600)
    from pipeline.common.errors import UserError
    raise {error}("of one rank alone")

def audit(event, arguments):
    phases = sys.modules.get("pipeline.training.run.model_phases")
    if event == "open" and hasattr(phases, "_build"):
        phases._build = build

if "SLURM_PROCID" in os.environ:
    sys.addaudithook(audit)
"""


@pytest.mark.parametrize(
    ("error", "status"), [("RuntimeError", "1:0"), pytest.param("UserError", "2:0", marks=pytest.mark.full)]
)
def test_a_rank_that_fails_at_the_start_ends_the_job_though_the_healthy_ones_stop_as_at_a_signal(
    error, status, toy, cluster, planted
):
    submitted = toy().submit(cluster, PYTHONPATH=planted(_FAILS_AT_THE_START.format(error=error)))
    failed = submitted.finish("FAILED", timeout=60)
    assert "of one rank alone" in failed.output
    assert "task 1: Exited with exit code 75" in failed.output
    assert (submitted.job.fields["ExitCode"], submitted.job.fields["Restarts"]) == (status, "0")
    assert not list((submitted.run_dir.parent / "tmp").glob("growth-*")), "what was compiled goes with the step"


def test_a_preempted_job_saves_and_goes_on_when_the_other_has_ended(undisturbed, toy, cluster, tmp_path):
    """Slurm's grace time: SIGTERM to the tasks alone, no word to the batch script."""
    submitted = toy().submit(cluster)
    submitted.wait_for_step(20)
    urgent = (f"--output={tmp_path}/urgent", "--partition=urgent", "--nodes=2", "--exclusive", "--wrap", "sleep 1")
    other = cluster.submit(*urgent)
    other.wait_for_state("COMPLETED")
    steps = len(submitted.run.metrics)
    resumed = submitted.finish()
    assert submitted.job.fields["Restarts"] == "1"
    assert _resumed_from(submitted) == steps, "nothing that was done is done again"
    assert resumed.losses == undisturbed.losses


@pytest.mark.full
def test_a_job_is_not_restarted_more_often_than_it_may(toy, cluster):
    submitted = toy().submit(cluster, MAX_RESTARTS="0")
    submitted.wait_for_step(5)
    submitted.job.signal("USR1")
    ended = submitted.finish("FAILED")
    assert (submitted.job.fields["ExitCode"], submitted.job.fields["Restarts"]) == ("75:0", "0")
    assert "stopped at a signal; not requeued after 0 restarts" in ended.output and "MAX_RESTARTS" in ended.output


def test_a_cancelled_job_stays_so_and_the_next_of_its_chain_goes_on(undisturbed, toy, cluster):
    """The chain is that of clusters where requeueing is not allowed: jobs of one name, one after the other."""
    recipe = toy()
    chain = (*TWO_NODES, "--job-name=chain", "--dependency=singleton")
    first = recipe.submit(cluster, options=chain)
    second = recipe.submit(cluster, options=chain)
    first.wait_for_step(10)
    assert second.job.state == "PENDING"
    first.job.cancel()
    first.finish("CANCELLED")
    resumed = second.finish()
    assert first.job.state == "CANCELLED" and first.job.fields["Restarts"] == "0"
    assert "the run was stopped; start the same command again" in first.job.log, "KillWait left the ranks the time to save"
    assert resumed.losses == undisturbed.losses
