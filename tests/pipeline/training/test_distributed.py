"""Ranks that are not what they were started as, and what one rank alone cannot see."""

import fcntl
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.common.errors import UserError
from pipeline.common.files import HeldError, locked
from pipeline.training import distributed
from pipeline.training.certifying.measure import _probe
from pipeline.training.directory import run_directory
from pipeline.training.directory.run_directory import RunDirectory
from pipeline.training.run import resume
from tests.ranks import run_ranks

QUICKSTART = Path(__file__).parents[3] / "launch" / "recipes" / "quickstart.yaml"


def _seats(*nodes: tuple[str, int, str, int]) -> list[distributed.Seat]:
    """One seat a rank of nodes given as (name, ranks, kind, devices)."""
    return [
        distributed.Seat(name, local_rank, kind, devices) for name, ranks, kind, devices in nodes for local_rank in range(ranks)
    ]


def test_ranks_beyond_a_nodes_devices_or_beside_another_kind_are_refused():
    distributed._check_seats(_seats(("n1", 2, "cuda", 2), ("n2", 1, "cuda", 1)))
    distributed._check_seats(_seats(("n1", 9, "cpu", 1)))
    with pytest.raises(UserError, match=r"^node n2: LOCAL_RANK 1 is beyond its 1 device"):
        distributed._check_seats(_seats(("n1", 2, "cuda", 2), ("n2", 3, "cuda", 1)))
    with pytest.raises(UserError, match=r"^node n2: rank 2 would compute on cpu and rank 0, on node n1, on cuda"):
        distributed._check_seats(_seats(("n1", 2, "cuda", 2), ("n2", 2, "cpu", 1)))


def _sentence(work: Callable[[], None], expected: type[Exception] = UserError) -> str | None:
    try:
        work()
    except expected as error:
        return str(error) if expected is UserError else f"{type(error).__name__}: {error}"
    return None


class _UnsendableError(Exception):
    def __str__(self) -> str:
        return "broken"


def _look() -> dict[str, str | None]:
    """What a rank reports, the second of two, in several predicaments."""
    rank = distributed.rank()

    def read(hidden_from: list[int]) -> None:
        if rank in hidden_from:
            raise FileNotFoundError(2, "No such file or directory", "/shards")

    def fail() -> None:
        # No person can mend it, and it cannot be sent.
        if rank == 1:
            raise _UnsendableError(threading.Lock())

    def heldout(_: object) -> None:
        if rank == 1:
            raise UserError("held-out block damaged")

    os.environ["SLURMD_NODENAME"] = f"n{rank + 1}"
    return {
        "one task": _sentence(lambda: distributed._check_tasks("1", "0")),
        "alone in three tasks": _sentence(lambda: distributed._check_tasks("3", "0")),
        "two tasks": _sentence(lambda: distributed._check_tasks("2", str(rank))),
        "none of Slurm's beside one": _sentence(lambda: distributed._check_tasks(*((None, None), ("1", "0"))[rank])),
        "hidden from one": _sentence(lambda: distributed.on_every_rank(lambda: read([1]))),
        "hidden from both": _sentence(lambda: distributed.on_every_rank(lambda: read([0, 1]))),
        "fault on one": _sentence(lambda: distributed.on_every_rank(fail), Exception),
        "fault on one, refused on the other": _sentence(
            lambda: distributed.on_every_rank(lambda: (fail(), read([0]))), Exception
        ),
        "probed text damaged on one": _sentence(lambda: _probe(None, SimpleNamespace(heldout=heldout))),
    }


@pytest.fixture(scope="module")
def reports() -> list[dict[str, str | None]]:
    """By rank; two processes for all of it, which take seconds to start."""
    return run_ranks(_look, 2)


def test_a_task_may_be_one_rank_or_several_and_one_that_is_none_is_missed(reports):
    for rank in reports:
        assert rank["one task"] is None and rank["two tasks"] is None and rank["none of Slurm's beside one"] is None
        assert rank["alone in three tasks"].startswith("Slurm started 3 tasks, and DeepSpeed sees 2 ranks in 1 task of them")


def test_what_one_node_cannot_read_is_said_on_every_rank_with_its_node(reports):
    for rank in reports:
        assert rank["hidden from one"].startswith("node n2: /shards: No such file")
        assert rank["hidden from both"].startswith("/shards: No such file")


@pytest.mark.parametrize("case", ["fault on one", "fault on one, refused on the other"])
def test_a_fault_of_one_rank_ends_the_others_too(reports, case):
    assert [rank[case] for rank in reports] == ["RuntimeError: rank 1: _UnsendableError: broken", "_UnsendableError: broken"]


def test_held_out_text_that_one_node_finds_damaged_is_refused_on_every_rank_by_the_measurement_of_a_growth(reports):
    assert {rank["probed text damaged on one"] for rank in reports} == {"node n2: held-out block damaged"}


@pytest.fixture
def lock(tmp_path, monkeypatch):
    """Lock a run directory as the first rank does, started again by Slurm so many times."""

    def lock(restarts: int) -> None:
        monkeypatch.setattr(resume, "_POLL_SECONDS", 0.01)
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        with ExitStack() as stack:
            resume.hold(RunDirectory(tmp_path), stack)

    return lock


def test_a_job_that_was_started_again_waits_for_what_its_last_attempt_left(tmp_path, lock, messages):
    # A lock is an open file's: this process can hold it against itself.
    held = open(tmp_path / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 - closed by the timer
    fcntl.flock(held, fcntl.LOCK_EX)
    threading.Timer(0.5, held.close).start()
    lock(restarts=1)
    assert held.closed
    assert messages[0].startswith("waiting up to 300 s")


def test_it_waits_no_longer_than_it_says_and_a_first_attempt_not_at_all(tmp_path, lock, monkeypatch, messages):
    with locked(tmp_path / ".lock", wait=False):
        with pytest.raises(HeldError):
            lock(restarts=0)
        assert not messages
        monkeypatch.setattr(resume, "_DYING_SECONDS", 0.1)
        with pytest.raises(HeldError):
            lock(restarts=1)


def test_a_run_directory_that_is_not_the_first_ranks_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(run_directory, "_VISIBLE_SECONDS", 0)
    directory = RunDirectory(tmp_path)
    with pytest.raises(UserError, match="all nodes share"):
        directory.check_shared()
    directory.lock.touch()
    directory.check_shared()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
