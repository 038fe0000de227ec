"""Whether Triton's kernels run on a device, and what is said where they do not."""

import pytest
import torch

from pipeline.training import toolchain
from pipeline.training.losses import summed_loss
from pipeline.training.toolchain import triton_runs


@pytest.fixture(autouse=True)
def asked_anew():
    triton_runs.cache_clear()
    yield
    triton_runs.cache_clear()


@pytest.mark.parametrize(
    ("available", "says"), [(False, "Triton has no driver for this device"), (True, "Failed to find C compiler")]
)
def test_where_kernels_cannot_be_compiled_the_loss_runs_in_chunks_and_says_so_once(monkeypatch, caplog, available, says):
    def compiling(*_, **__):
        raise RuntimeError("Failed to find C compiler.\nPlease specify one.")

    monkeypatch.setattr(toolchain, "triton_backend_available", lambda: available)
    monkeypatch.setattr(toolchain, "chunked_cross_entropy", compiling)
    logits, labels = torch.empty(4, 50, device="meta", requires_grad=True), torch.empty(4, dtype=torch.long, device="meta")
    for _ in range(2):
        summed_loss(logits, labels).backward()
    assert logits.grad.shape == logits.shape
    (record,) = caplog.records
    assert says in record.getMessage() and "specify" not in record.getMessage()


def test_a_cpu_is_not_asked_and_nothing_is_said_of_it(caplog):
    assert not triton_runs(torch.device("cpu")) and not caplog.records
