"""The certificate beside the steps: what the watchdog hears of it, and when."""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.distributed import HashStore

from pipeline.growth.state import Source
from pipeline.training.loop import certifying
from pipeline.training.loop.certifying import Certifying
from pipeline.training.monitoring import watchdog
from pipeline.training.monitoring.watchdog import Watchdog, watched

READS = 3


@dataclass
class Listening:
    """A watchdog that counts on which threads it is told that the rank is well."""

    threads: list[int] = field(default_factory=list)

    def beat(self) -> None:
        self.threads.append(threading.get_ident())

    def on_first_rank(self, work):
        return work()


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Return a certificate's making, whose comparison reads the source each time that it is let."""
    reads = threading.Semaphore(0)

    def compare(source, plan, target):
        for _ in range(READS):
            assert reads.acquire(timeout=60)
            source.state["a"].rows(0, 1)
        return {}

    monkeypatch.setattr(certifying, "compare", compare)
    monkeypatch.setattr(certifying, "certify", lambda *_, **__: {"measured_agrees": True})
    state = {"a": SimpleNamespace(shape=(1,), rows=lambda start, stop: torch.zeros(stop - start))}
    source = Source(Path("source"), None, None, state)
    growth, listening = SimpleNamespace(plan=None, target=None), Listening()
    digest = SimpleNamespace(result=lambda beat: "digest")
    making = Certifying(
        tmp_path / "certificate.json", growth, source, digest, lambda: {"dtype": "float32"}, (), listening, lambda _: None
    )
    return making, listening, reads


def test_a_comparison_beside_the_steps_does_not_pass_for_steps(made):
    making, listening, reads = made
    making.begin()
    reads.release(READS)
    making.close()
    assert set(listening.threads) <= {threading.get_ident()}


@pytest.mark.parametrize("end", [Certifying.finish, Certifying.close])
def test_a_comparison_that_gets_on_is_heard_where_it_is_waited_for(made, end, monkeypatch):
    making, listening, reads = made
    monkeypatch.setattr("pipeline.common.background._POLL_SECONDS", 0.01)
    making.begin()
    assert not listening.threads
    went_on = []

    def beat() -> None:
        went_on.append(threading.get_ident())
        reads.release()

    # Each beat lets it read once more: it would stand still if none of its reads were heard.
    listening.beat = beat
    end(making)
    assert len(went_on) >= READS and set(went_on) == {threading.get_ident()}


def test_a_comparison_that_stands_still_is_not_heard(made, monkeypatch):
    making, listening, reads = made
    monkeypatch.setattr("pipeline.common.background._POLL_SECONDS", 0.001)
    making.begin()
    threading.Timer(0.2, reads.release, [READS]).start()
    making.close()
    # Once when it is waited for, and once for each read at most.
    assert 1 <= len(listening.threads) <= 1 + READS


def test_only_the_main_thread_tells_the_watchdog_that_a_rank_is_well(monkeypatch):
    store = HashStore()
    monkeypatch.setattr(watchdog, "_get_default_store", lambda: SimpleNamespace(clone=lambda: store))
    made = Watchdog(60.0, 5)
    tensor = SimpleNamespace(shape=(1,), rows=lambda start, stop: torch.ones(stop - start))
    reads = [lambda: made.watched({"a": tensor})["a"].rows(0, 1), made.beat, lambda: made.beat(7)]
    for read in reads:
        made._beaten, made._step = 0.0, 5
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
        assert (made._beaten, made._step) == (0.0, 5)
        read()
        assert made._beaten > 0
    assert made._step == 7


def test_a_state_that_is_heard_reads_as_the_state():
    beats = []
    tensor = SimpleNamespace(shape=(4,), rows=lambda start, stop: torch.arange(4)[start:stop])
    (one,) = watched({"a": tensor}, lambda: beats.append(1)).values()
    assert one.shape == (4,) and torch.equal(one.rows(1, 3), torch.tensor([1, 2])) and beats == [1]
