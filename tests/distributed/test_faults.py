"""Gradients that are no numbers, on one rank of two; ranks that stall."""

import math
import os
import signal
import subprocess
import sys

import pytest

from pipeline.families import ActiveLayers
from pipeline.training import distributed
from pipeline.training.loop.guard import Gradients, is_number, with_poison
from pipeline.training.losses import summed_loss
from pipeline.training.monitoring.watchdog import EXIT_STALLED, Report, message
from tests.distributed.engines import built, full_weight
from tests.distributed.test_freezing import GROUPS, LAYERS, LENGTH, OPTIMIZER, identical, masters_by_group, model_config
from tests.distributed.walks import BATCH, LAYOUTS, batches, ds_config
from tests.end_to_end.conftest import ROOT
from tests.ranks import free_port, run_ranks

# --- steps that are skipped -----------------------------------------------------------------------

FAULTS = {
    "nan_gradient": lambda loss, logits: logits.register_hook(lambda gradient: gradient * math.nan) and loss,
    "infinite_gradient": lambda loss, logits: logits.register_hook(lambda gradient: gradient / 0) and loss,
    # Its gradient is that of the loss.
    "infinite_loss": lambda loss, logits: loss + math.inf,
}
STEPS = [None, None, "nan_gradient", "infinite_loss", None, "infinite_gradient", None, None]


def train(layout: str, clipping: float, faults: list[str | None]):
    """Train, one fault after the other on rank 1 alone; return the losses and weights of the steps without any."""
    settings = ds_config(layout, 1) | {"gradient_clipping": clipping}
    trained = built(model_config("gpt2", True), settings, OPTIMIZER, GROUPS)
    gradients = Gradients(trained.engine)
    trained.optimizer.refuses = gradients.refused
    trained.learn(ActiveLayers.whole(LAYERS))
    share = BATCH // 2
    part = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
    losses, batch = [], iter(batches())
    for fault in faults:
        inputs, labels = batches()[-1] if fault else next(batch)
        before = state(trained)
        logits = trained.logits(inputs[part]).tokens
        loss = summed_loss(logits, labels[part])
        if fault and distributed.rank() == 1:
            loss = FAULTS[fault](loss, logits)
        trained.engine.backward(with_poison(loss) * (2 / (BATCH * LENGTH)))
        trained.engine.step()
        norm, forgiven = gradients.last()
        assert not forgiven and is_number(float(norm)) == (fault is None), (layout, fault)
        moved = not identical(before, state(trained))
        assert moved == (fault is None), (layout, fault)
        if not fault:
            losses.append(distributed.total(loss.item())[0])
    weights = {name: full_weight(parameter) for name, parameter in trained.module.named_parameters()}
    trained.close()
    return losses, weights


def state(trained):
    """This rank's masters, low-precision weights, and all that the optimizer keeps."""
    kept = trained.optimizer.state
    masters = [master for group in masters_by_group(trained) for master in group]
    values = [getattr(parameter, "ds_tensor", parameter).detach().clone() for parameter in trained.module.parameters()]
    return [
        [master.detach().clone() for master in masters],
        [{key: value.clone() for key, value in kept[master].items()} for master in masters if master in kept],
        values,
    ]


def train_with_and_without(layout, clipping):
    return train(layout, clipping, STEPS), train(layout, clipping, [None for fault in STEPS if fault is None])


CASES = [(layout, 0.5) for layout in LAYOUTS] + [("zero0", 0.0), ("zero1-bf16", 0.0), ("zero3", 0.0)]
FEW = [("zero1-bf16", 0.5)]
"""One whose steps DeepSpeed would take."""


@pytest.mark.parametrize(
    ("layout", "clipping"), [pytest.param(*case, marks=() if case in FEW else pytest.mark.full) for case in CASES]
)
def test_a_step_whose_gradient_is_no_number_on_one_rank_moves_nothing_on_any(layout, clipping):
    """The losses and weights after it are those of a run that never met it, to the bit."""
    for (losses, weights), (expected, expected_weights) in run_ranks(train_with_and_without, 2, layout, clipping):
        assert losses == expected and all(map(math.isfinite, losses))
        assert identical(weights, expected_weights)


# --- ranks that stall -----------------------------------------------------------------------------


def report(step: int, waits: bool) -> Report:
    return Report(step, "f (f.py:1)", waits)


@pytest.mark.parametrize(
    ("reports", "named"),
    [
        ({0: report(7, True), 2: report(7, True)}, "rank 1 does not answer"),
        ({0: report(7, True), 1: report(6, True), 2: report(7, True)}, "rank 1 did not arrive"),
        ({0: report(7, True), 1: report(7, False), 2: report(7, True)}, "rank 1 did not arrive"),
        ({0: report(7, False), 1: report(7, False), 2: report(7, True)}, "one of the ranks 0, 1 did not arrive"),
        ({0: report(7, True), 1: report(7, True), 2: report(7, True)}, "all ranks answer, and none gets on"),
    ],
)
def test_the_rank_that_holds_the_others_up_is_named(reports, named):
    said = message(reports, 3, 90)
    assert said.startswith("nothing done for 1.5 minutes (guard.stall_minutes) after step 7: ")
    assert named in said


STALLING = """
import os, sys, time
import torch
from pipeline.common.heartbeat import beat
from pipeline.training import distributed
from pipeline.training.monitoring.watchdog import Watchdog
distributed.join()
def fall_asleep():
    time.sleep(100)
def work():
    for _ in range(4):
        time.sleep(0.8)
        beat()
with Watchdog(2.0) as watchdog:
    # Longer than the bound, but rank 0 gets on; the other has nothing to tell.
    watchdog.on_first_rank(work)
    for step in range(1, 100):
        if step == 4:
            print("stalls", flush=True)
            if distributed.rank() == 1 and sys.argv[1] == "asleep":
                fall_asleep()
            time.sleep(0.5)
        distributed.total(1.0)
        watchdog.reached(step)
        # Longer in all than the bound, but no step is.
        time.sleep(0.8)
"""


@pytest.mark.parametrize(
    ("way", "guilty"),
    [pytest.param("asleep", 1, marks=pytest.mark.full), ("stopped", 1), pytest.param("stopped", 0, marks=pytest.mark.full)],
)
def test_a_rank_that_stalls_ends_the_other_in_its_collective_with_a_message_that_names_it(way, guilty):
    """Also where it is rank 0, in whose store the ranks leave word."""
    port = free_port()
    ranks: list[subprocess.Popen] = []
    try:
        for rank in range(2):
            environment = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu"}
            words = [sys.executable, "-c", STALLING, way]
            pipe = subprocess.PIPE
            ranks.append(subprocess.Popen(words, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True))
        assert any(line == "stalls\n" for line in iter(ranks[guilty].stdout.readline, "")), ranks[guilty].communicate()
        if way == "stopped":
            ranks[guilty].send_signal(signal.SIGSTOP)
        other = 1 - guilty
        _, error = ranks[other].communicate(timeout=90)
        assert ranks[other].returncode == EXIT_STALLED
        (named,) = [line for line in error.splitlines() if line.startswith("nothing done for 2 seconds")]
        if way == "stopped":
            assert f"after step 3: rank {guilty} does not answer" in named, error
        else:
            assert "rank 1 did not arrive where the others wait (rank 1 is in fall_asleep (<string>:8), after step 3)" in named
            _, error_of_guilty = ranks[guilty].communicate(timeout=90)
            assert ranks[guilty].returncode == EXIT_STALLED and "in fall_asleep" in error_of_guilty
        assert f"rank {other} stands after step 3 in:" in error and "in total" in error
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
