"""Trainings that go on from checkpoints at any number of ranks, and checkpoints that are written meanwhile."""

import json
import math
import re
import shutil
import threading
import time
from contextlib import nullcontext

import pytest
import torch

from pipeline.common.errors import UserError
from pipeline.growth.integrity import FILES
from pipeline.growth.sources import open_source
from pipeline.growth.zero_sink import SCALARS
from pipeline.recipe import CheckpointingConfig
from pipeline.training import distributed
from pipeline.training.directory.checkpoints import Checkpoints, TrainState, _Writer
from tests.damages import full_disk
from tests.distributed.engines import built
from tests.distributed.test_freezing import GROUPS, OPTIMIZER, model_config
from tests.distributed.walks import DEPTHS, FULL, LAYOUTS, batches, close, ds_config, take_step, walk
from tests.messages import collected
from tests.ranks import run_ranks

# --- going on -------------------------------------------------------------------------------------

STEPPED = [(f"zero{stage}", False) for stage in range(4)] + [("zero2", True), ("zero3", True)]


def walk_all(folder, begin, end, cases):
    return {case: close(walk(folder / f"{case[0]}-{case[1]}", case[0], begin, end, case[1])) for case in cases}


def folders(root, cases):
    for layout, mixed in cases:
        (root / f"{layout}-{mixed}").mkdir(parents=True)
    return root


def set_out(whole, walked, cases):
    """The uninterrupted run and the walk's first part, in one process."""
    return walk_all(whole, 0, len(DEPTHS), cases), walk_all(walked, 0, 2, cases)


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param([("zero2", False), ("zero3", True)], id="few"),
        pytest.param([case for case in STEPPED if case not in (("zero2", False), ("zero3", True))], id="others", marks=FULL),
    ],
)
def test_a_walk_over_one_two_three_and_one_ranks_is_the_uninterrupted_run(tmp_path, cases):
    walked = folders(tmp_path / "walked", cases)
    ((whole, losses),) = run_ranks(set_out, 1, folders(tmp_path / "whole", cases), walked, cases, timeout=280)
    for begin, ranks in ((2, 2), (4, 3), (6, 1)):
        results = run_ranks(walk_all, ranks, walked, begin, begin + 2, cases, timeout=280)
        for case in cases:
            losses[case] += results[0][case]
    for layout, mixed in cases:
        assert math.isfinite(whole[layout, mixed][-1])
        gap = max(abs(a / b - 1) for a, b in zip(losses[layout, mixed], whole[layout, mixed], strict=True))
        print(f"{layout} {'mixed ages' if mixed else 'one age':<11} loss within {gap:.1e} of the uninterrupted run's")
        # fp32 sums in another order; a moment or step count lost shows as 1e-3.
        assert gap < 1e-6, (layout, mixed)
        ours, theirs = (open_source(folder / f"{layout}-{mixed}") for folder in (walked, tmp_path / "whole"))
        assert any("lr_factor" in kept for kept in theirs.optimizer.values()) == mixed
        for name, kept in theirs.optimizer.items():
            assert kept.keys() == ours.optimizer[name].keys()
            for key, value in kept.items():
                other = ours.optimizer[name][key]
                if isinstance(value, float):
                    assert other == value, (name, key)
                elif key in SCALARS:
                    assert torch.equal(other.rows(0, other.shape[0]), value.rows(0, other.shape[0])), (name, key)


def stop_and_go_on(root, cases):
    whole = walk_all(root / "whole", 0, 8, cases)
    # After one step half of the groups have never moved.
    first, second = walk_all(root / "stopped", 0, 1, cases), walk_all(root / "stopped", 1, 8, cases)
    return whole, {case: first[case] + second[case] for case in cases}


RESUMED = [(layout, False) for layout in LAYOUTS if layout != "zero2"] + [("zero2", True), ("zero3", True)]


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param([("zero1", False), ("zero3", True)], id="few"),
        pytest.param([case for case in RESUMED if case not in (("zero1", False), ("zero3", True))], id="others", marks=FULL),
    ],
)
def test_at_the_same_ranks_the_losses_are_the_uninterrupted_runs_to_the_bit(tmp_path, cases):
    for name in ("whole", "stopped"):
        folders(tmp_path / name, cases)
    for whole, stopped in run_ranks(stop_and_go_on, 3, tmp_path, cases, timeout=400):
        assert stopped == whole


SWITCHED = [
    ("zero3", 1),
    ("zero0", 3),
    ("zero2", 1),
    ("zero1", 3),
    ("zero3-offload", 1),
    ("zero0", 1),
    ("zero2-offload", 3),
    ("zero3", 3),
]
"""For each step a layout and an accumulation: from each ZeRO stage to another, where groups have steps of their own."""


def switch(root):
    whole = close(walk(root / "whole", "zero2", 0, len(DEPTHS), True))
    return whole, [
        loss
        for step, (layout, accumulation) in enumerate(SWITCHED)
        for loss in close(walk(root / "switched", layout, step, step + 1, True, accumulation=accumulation))
    ]


def test_another_zero_stage_and_micro_batch_at_every_step_give_the_uninterrupted_runs_losses(tmp_path):
    for name in ("whole", "switched"):
        (tmp_path / name).mkdir()
    (whole, switched), _ = run_ranks(switch, 2, tmp_path, timeout=280)
    gap = max(abs(a / b - 1) for a, b in zip(switched, whole, strict=True))
    print(f"losses within {gap:.1e} of the uninterrupted run's")
    # fp32 sums in another order; a moment or step count lost shows as 1e-3.
    assert gap < 1e-6


# --- writing --------------------------------------------------------------------------------------


def save_within(folder, layout, asynchronous):
    """Take three steps and save; in the background nothing is written before one more step is taken."""
    trained = built(model_config("gpt2", True), ds_config(layout, 1), OPTIMIZER, GROUPS)
    checkpoints = Checkpoints(folder, CheckpointingConfig(asynchronous=asynchronous))
    gate, write = threading.Event(), _Writer.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Writer, "write", lambda writer: (gate.wait(60), write(writer)))
        for inputs, labels in batches()[:3]:
            take_step(trained, None, inputs, labels)
        assert checkpoints.save(trained, TrainState(1, 3), must=False)
        take_step(trained, None, *batches()[3])
        assert (checkpoints.last is None) == asynchronous and not checkpoints.written
        assert (folder / "step-00000003").exists() != asynchronous and (folder / "latest").exists() != asynchronous
        gate.set()
        while asynchronous and not checkpoints.written:
            time.sleep(0.01)
    assert checkpoints.finish() and checkpoints.last.step == 3 and not checkpoints.written
    trained.close()


@pytest.mark.parametrize("layout", [pytest.param(layout, marks=() if layout == "zero3" else FULL) for layout in LAYOUTS])
def test_a_checkpoint_written_while_training_goes_on_is_that_of_the_moment_to_the_byte(tmp_path, layout):
    for name in ("at_once", "behind"):
        (tmp_path / name).mkdir()
        # Processes of their own: DeepSpeed numbers the parameters of a process through, and writes their numbers.
        run_ranks(save_within, 2, tmp_path / name, layout, name == "behind")
    at_once, behind = (json.loads((tmp_path / name / "step-00000003" / FILES).read_text()) for name in ("at_once", "behind"))
    assert any(name.endswith("_states.pt") for name in at_once["files"])
    assert at_once == behind


def telling(work, *arguments):
    """Return what a rank says within some work, and what that returns."""
    with collected() as said:
        returned = work(*arguments)
    return said, returned


def save_where_there_is_no_room(folder):
    """Save once with room, once where rank 1 has none, once again with room; return what was there."""
    trained = built(model_config("gpt2", True), ds_config("zero3", 1), OPTIMIZER, GROUPS)
    listed = []
    for asynchronous in (False, True):
        checkpoints = Checkpoints(folder, CheckpointingConfig(keep=1, asynchronous=asynchronous))
        for step, room in ((1, True), (2, False), (3, True)):
            take_step(trained, None, *batches()[step])
            # In the middle of a file.
            with nullcontext() if room or distributed.rank() == 0 else full_disk(20_000):
                is_started = checkpoints.save(trained, TrainState(1, step), must=False)
                assert is_started == (room or asynchronous)
                assert checkpoints.finish() == (room or not asynchronous)
            distributed.total(0)
            listed.append(sorted(path.name for path in folder.iterdir()))
            distributed.total(0)
        refused = r"zero_pp_rank_1.*File too large: the checkpoint could not be written; free disk space"
        with nullcontext() if distributed.rank() == 0 else full_disk(20_000), pytest.raises(UserError, match=refused):
            checkpoints.save(trained, TrainState(1, 4), must=True)
        assert Checkpoints(folder, CheckpointingConfig()).newest_whole().step == 3
        shutil.rmtree(folder, ignore_errors=True)
        distributed.total(0)
        folder.mkdir(exist_ok=True)
    return listed


def test_one_rank_without_room_is_said_by_all_and_the_next_checkpoint_is_tried(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for said, listed in run_ranks(telling, 2, save_where_there_is_no_room, tmp_path / "checkpoints"):
        assert listed == [["latest", f"step-0000000{step}"] for step in (1, 1, 3, 1, 1, 3)]
        assert len(said) == 2
        for line in said:
            assert re.search(
                r"warning: .*zero_pp_rank_1_.*: File too large: the checkpoint of step 2 could not be written", line
            )
