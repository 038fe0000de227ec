"""The certificate beside the steps: whose heartbeats count, and when."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.distributed import HashStore

from pipeline.common.heartbeat import beat, watched_by
from pipeline.growth.huggingface import MappedTensor
from pipeline.growth.state import Source
from pipeline.training.certifying import certifying
from pipeline.training.certifying.certifying import GrowthCertification
from pipeline.training.monitoring import watchdog
from pipeline.training.monitoring.watchdog import Watchdog

READS = 3


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
    certification = GrowthCertification(
        path=tmp_path / "certificate.json",
        growth=SimpleNamespace(plan=None, target=None),
        source=Source(Path("source"), None, None, {"a": MappedTensor(torch.zeros(1))}),
        digest=SimpleNamespace(result=lambda: "digest"),
        remarks=(),
        watchdog=SimpleNamespace(on_first_rank=lambda work: work()),
        certified=lambda _: None,
        measure=lambda: {"dtype": "float32"},
    )
    return certification, reads


def test_a_comparison_beside_the_steps_does_not_pass_for_steps(made):
    making, reads = made
    threads = []
    with watched_by(lambda: threads.append(threading.get_ident())):
        making.begin()
        reads.release(READS)
        making.close()
    assert set(threads) <= {threading.get_ident()}


@pytest.mark.parametrize("end", [GrowthCertification.finish, GrowthCertification.close])
def test_a_comparison_that_gets_on_is_watched_where_it_is_waited_for(made, end, monkeypatch):
    making, reads = made
    monkeypatch.setattr("pipeline.common.background._POLL_SECONDS", 0.01)
    threads = []

    def take_note() -> None:
        threads.append(threading.get_ident())
        # Each beat lets it read once more: it would stand still if none of its reads were watched.
        reads.release()

    with watched_by(take_note):
        making.begin()
        assert not threads
        end(making)
    assert len(threads) >= READS and set(threads) == {threading.get_ident()}


def test_a_comparison_that_stands_still_gives_no_sign_of_life(made, monkeypatch):
    making, reads = made
    monkeypatch.setattr("pipeline.common.background._POLL_SECONDS", 0.001)
    beats = []
    with watched_by(lambda: beats.append(1)):
        making.begin()
        threading.Timer(0.2, reads.release, [READS]).start()
        making.close()
    # Once when it is waited for, and once for each read at most.
    assert 1 <= len(beats) <= 1 + READS


def test_only_the_main_threads_heartbeats_reach_the_watchdog(monkeypatch):
    store = HashStore()
    monkeypatch.setattr(watchdog, "_get_default_store", lambda: SimpleNamespace(clone=lambda: store))
    made, tensor = Watchdog(60.0, 5), MappedTensor(torch.ones(1))
    with made:
        for work in (beat, lambda: tensor.rows(0, 1)):
            made._beaten = 0.0
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            assert made._beaten == 0.0
            work()
            assert made._beaten > 0
        made.reached(7)
    assert made._step == 7
