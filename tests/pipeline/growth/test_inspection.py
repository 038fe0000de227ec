"""The pass over a source's values."""

import threading
import time

import torch

from pipeline.growth.inspection import inspect
from pipeline.growth.streaming import CONSTRUCTING


class Made:
    """A tensor whose rows are made when they are asked for."""

    shape = (6, 4)

    def rows(self, start, stop):
        rows = torch.empty(stop - start, 4)
        return rows.copy_(torch.arange(start * 4, stop * 4).reshape(-1, 4) / 3)


def test_what_a_thread_reads_while_a_model_is_constructed_is_what_it_reads_alone(monkeypatch):
    """DeepSpeed's zero.Init has torch.empty give tensors of the model's dtype, in every thread."""
    state, digests = {"made": Made()}, []
    alone = inspect(state, "here")
    reader = threading.Thread(target=lambda: digests.append(inspect(state, "here")))
    empty = torch.empty
    with CONSTRUCTING:
        monkeypatch.setattr(torch, "empty", lambda *sizes, **_: empty(*sizes, dtype=torch.bfloat16))
        reader.start()
        # Long enough for a thread that does not wait.
        time.sleep(0.2)
        monkeypatch.undo()
    reader.join(timeout=30)
    assert digests == [alone]


def test_each_chunk_is_told():
    told = []
    inspect({"made": Made(), "other": Made()}, "here", lambda: told.append(1))
    assert len(told) == 2
