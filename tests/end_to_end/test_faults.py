"""Runs that are killed, stopped, damaged and short of room: what is left, and that they go on as if nothing had been."""

import json
import os
import random
import resource
import shutil
import signal
import time

import psutil
import pytest

from pipeline.training.signals import EXIT_STOPPED
from tests.end_to_end.conftest import latest, wait_for, write_recipe
from tests.forked import Program

STEPS = 22
SAVES = (5, 8, 13, 14, 18, 22)
"""The steps of the toy run at which it is saved."""


def _ranks(run) -> list[psutil.Process]:
    """The rank processes; DeepSpeed's launcher, which starts them, names the script too."""
    if isinstance(run.process, Program):
        return psutil.Process(run.process.pid).children()
    children = psutil.Process(run.process.pid).children(recursive=True)
    return [child for child in children if "pretrain.py" in "".join(child.cmdline()[2:3])]


# --- kill -9 --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed_pair(launch, prepared, tmp_path_factory):
    """A run of the toy recipe on two ranks."""
    return launch(write_recipe(tmp_path_factory.mktemp("pair"), prepared), ranks=2).finish()


def _kills(count: int) -> list[tuple[str, str, int, float]]:
    """Whom to kill, while it trains or saves, at which step, and how many seconds after that is seen."""
    draw = random.Random(5)
    return [
        (
            ("one rank", "launcher", "all ranks")[number % 3],
            *(("saving", draw.choice(SAVES)) if number % 3 == 2 or number > 14 else ("training", draw.randrange(1, STEPS))),
            round(draw.uniform(0, 0.05), 3),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("victim", "doing", "step", "delay"),
    [pytest.param(*kill, marks=() if number < 3 else pytest.mark.full) for number, kill in enumerate(_kills(20))],
)
def test_killed_at_a_random_instant_and_started_again_the_losses_are_the_undisturbed_runs(
    undisturbed_pair, launch, recipe, tmp_path, victim, doing, step, delay
):
    # Saving in the background changes no loss, and leaves more instants at which half a checkpoint is there.
    path = recipe(checkpointing={"every": 5, "asynchronous": step % 2 == 0})
    killed = launch(path, ranks=2, deepspeed=victim == "launcher")
    partial = killed.run_dir / "checkpoints" / f"step-{step:08d}.partial"
    if doing == "saving":
        wait_for(lambda: partial.exists() or partial.with_suffix("").exists(), killed)
    else:
        killed.wait_for_step(step)
    time.sleep(delay)
    ranks = _ranks(killed)
    if victim == "launcher":
        # What `deepspeed` starts the ranks with is one too.
        for process in [*psutil.Process(killed.process.pid).children(), psutil.Process(killed.process.pid)]:
            process.kill()
    else:
        for rank in ranks if victim == "all ranks" else random.Random(step).sample(ranks, min(1, len(ranks))):
            rank.kill()
    _, error = killed.process.communicate(timeout=120)
    assert "Traceback" not in error
    # Ranks that lost their launcher save and end; their locks go with them.
    _, alive = psutil.wait_procs(ranks, timeout=60)
    assert not alive
    resumed = launch(path, ranks=2).finish()
    assert resumed.losses == undisturbed_pair.losses
    assert resumed.evaluations == undisturbed_pair.evaluations
    assert resumed.summary["losses"] == undisturbed_pair.summary["losses"]
    assert resumed.metrics[-1]["flops_total"] == undisturbed_pair.metrics[-1]["flops_total"]
    assert sorted(path.name for path in (resumed.run_dir / "checkpoints").iterdir()) == [
        "latest",
        "step-00000020",
        "step-00000022",
    ]


def test_a_walk_over_one_two_three_and_one_ranks_gives_the_uninterrupted_runs_losses(launch, recipe, tmp_path):
    """Stopped in the source's training, in the sub-models' (whose groups have steps of their own) and in the full model's."""
    stages = [{"name": "submodels", "submodel_layers": 2, "steps": 6}, {"name": "full", "steps": 20}]
    path = recipe(train_batch_size=6, train_micro_batch_size_per_gpu=3, checkpointing={"every": 2}, stages=stages)
    whole = launch(path, f"run_dir={tmp_path / 'whole'}").finish()
    override = f"run_dir={tmp_path / 'walked'}"
    for ranks, step in ((1, 5), (2, 12)):
        part = launch(path, override, ranks=ranks)
        part.wait_for_step(step)
        part.kill()
    part = launch(path, override, ranks=3)
    part.wait_for_step(17)
    for rank in _ranks(part):
        rank.send_signal(signal.SIGTERM)
    stopped = part.wait()
    assert stopped.status == EXIT_STOPPED, stopped.error
    steps = len(stopped.metrics)
    last = launch(path, override).finish()
    assert f"continues from its checkpoint of step {steps}" in last.output
    gap = max(abs(one / other - 1) for one, other in zip(last.losses, whole.losses, strict=True))
    print(f"losses within {gap:.1e} of the uninterrupted run's")
    # 34 steps in fp32, the sums over the batch in another order, in which three ranks that are never stopped are 2e-6 from
    # one; a moment or a step count lost shows as 1e-3.
    assert gap < 1e-5
    assert last.summary["losses"] == pytest.approx(whole.summary["losses"], rel=1e-5)


@pytest.mark.full
def test_a_rank_killed_alone_while_it_prepares_text_leaves_no_lock(launch, recipe, tmp_path):
    data = {
        "output_dir": str(tmp_path / "data"),
        "text": {"corpus": "python_docs"},
        "tokenizer": {"vocab_size": 1000},
        "sequence_length": 32,
    }
    path = recipe(data=data)
    killed = launch(path)
    wait_for(lambda: len(psutil.Process(killed.process.pid).children()) >= 2, killed)
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.process.wait()
    # The directory is free.
    launch(path, "target.hidden_size=16").refused("target.hidden_size")


# --- being asked to stop --------------------------------------------------------------------------


def test_ranks_whose_launcher_is_killed_save_and_end(launch, recipe, tmp_path):
    path = recipe(stages=[{"name": "full", "steps": 2000}])
    orphaned = launch(path, ranks=2, deepspeed=True)
    orphaned.wait_for_step(10)
    ranks = _ranks(orphaned)
    os.kill(orphaned.process.pid, signal.SIGTERM)
    _, alive = psutil.wait_procs(ranks, timeout=60)
    assert not alive
    saved = json.loads((orphaned.run_dir / "checkpoints" / latest(orphaned.run_dir) / "progress.json").read_text())
    assert saved["step"] >= 10
    assert saved["step"] == (orphaned.run_dir / "metrics.jsonl").read_text().count("\n")


# --- damage and want of room ----------------------------------------------------------------------


def _truncate(file) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _flip(file) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [_flip, pytest.param(_truncate, marks=pytest.mark.full)])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(undisturbed, launch, recipe, tmp_path, damage):
    """In a run that was killed before it was summed up."""
    shutil.copytree(undisturbed.run_dir, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    checkpoints = tmp_path / "run" / "checkpoints"
    assert latest(tmp_path / "run") == "step-00000022"
    file = next((checkpoints / "step-00000022").glob("*optim_states.pt"))
    damage(file)
    resumed = launch(recipe()).finish()
    assert f"a checkpoint is damaged ({file}: " in resumed.output
    assert "step-00000020 is taken" in resumed.output and "continues from its checkpoint of step 20" in resumed.output
    assert resumed.losses == undisturbed.losses
    assert sorted(path.name for path in checkpoints.iterdir()) == ["latest", "step-00000020", "step-00000022"]
    # What was damaged has been written anew: only damaged again is it refused, with the one before it.
    (tmp_path / "run" / "summary.json").unlink()
    for tag in checkpoints.glob("step-*"):
        damage(next(tag.glob("*optim_states.pt")))
    launch(recipe()).refused(f"{file}: ", "every checkpoint is damaged")


ASKED = """
import os, runpy, signal, sys
sys.path.insert(0, os.getcwd())
import pipeline.training.loop.steps as loop

plain = loop.Steps.launch

def step(self, *arguments):
    if self._context.state.step == LAST - 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return plain(self, *arguments)

loop.Steps.launch = step
sys.argv[0] = "launch/pretrain.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""launch/pretrain.py, asked to stop in step LAST."""


def test_asked_to_stop_in_a_models_last_step_a_run_stops_before_the_growth(undisturbed, launch, recipe, tmp_path):
    script = tmp_path / "asked.py"
    # The source's last of 8.
    script.write_text(ASKED.replace("LAST", "8"))
    stopped = launch(recipe(), script=script).wait()
    assert stopped.status == EXIT_STOPPED, stopped.error
    assert len(stopped.metrics) == 8 and not list((tmp_path / "run" / "certificates").iterdir())
    resumed = launch(recipe()).finish()
    assert resumed.losses == undisturbed.losses


def test_a_disk_that_fills_up_leaves_the_last_checkpoint_whole(undisturbed, launch, recipe, tmp_path):
    """Writing past the limit on a file's size fails as a full disk does, in the middle of a file."""
    path = recipe()
    override = f"run_dir={tmp_path / 'full'}"
    checkpoints = tmp_path / "full" / "checkpoints"
    biggest = max(p.stat().st_size for p in (undisturbed.run_dir / "checkpoints").rglob("*.pt"))
    failed = launch(path, override, file_size=biggest // 2).refused("could not be written; free disk space")
    assert "the checkpoint of step 10 could not be written; free disk space for the next one" in failed.output
    assert len(failed.metrics) == 14, "training went on to the end of the stage"
    assert latest(tmp_path / "full") == "step-00000008", "the source's smaller checkpoints fit"
    assert {p.name for p in checkpoints.glob("step-*")} == {"step-00000005", "step-00000008"}
    resumed = launch(path, override).finish()
    assert resumed.losses == undisturbed.losses


def test_a_disk_that_is_full_for_a_while_costs_a_checkpoint_and_no_more(undisturbed, launch, recipe, tmp_path):
    path = recipe(stages=[{"name": "full", "steps": 200}], checkpointing={"every": 10})
    biggest = max(p.stat().st_size for p in (undisturbed.run_dir / "checkpoints").rglob("*.pt"))
    run = launch(path, file_size=biggest // 2)
    run.wait_for_step(8 + 11)
    resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    finished = run.finish()
    assert "the checkpoint of step 10 could not be written; free disk space for the next one" in finished.output
    assert [record["step"] for record in finished.metrics] == list(range(1, 209))
    assert {p.name for p in (run.run_dir / "checkpoints").iterdir()} == {"latest", "step-00000200", "step-00000208"}
