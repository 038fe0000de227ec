"""The pass over a source's values."""

import hashlib
import re
import threading
import time

import numpy as np
import pytest
import torch

from pipeline.common.errors import UserError
from pipeline.common.heartbeat import watched_by
from pipeline.growth import streaming
from pipeline.growth.huggingface import MappedTensor
from pipeline.growth.inspection import inspect
from pipeline.growth.streaming import CONSTRUCTING
from tests.pipeline.growth.models import offline


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


def test_each_chunk_is_a_sign_of_life():
    beats = []
    with watched_by(lambda: beats.append(1)):
        inspect({"made": Made(), "other": Made()}, "here")
    assert len(beats) == 2


@pytest.mark.parametrize("elements", [1, 7, 100, 1 << 20])
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_digest_is_of_names_shapes_and_values_whatever_chunks_and_narrower_dtype_they_come_in(
    monkeypatch, stored, elements
):
    monkeypatch.setattr(streaming, "HOST_CHUNK_ELEMENTS", elements)
    tensors = {"b": torch.randn(5, 8).to(stored), "a": torch.randn(9).to(stored)}
    expected = hashlib.blake2b(digest_size=16)
    for name in ("a", "b"):
        expected.update(repr((name, tuple(tensors[name].shape))).encode())
        expected.update(tensors[name].to(torch.promote_types(stored, torch.float32)).numpy().tobytes())
    assert inspect({name: MappedTensor(tensor) for name, tensor in tensors.items()}, "here") == expected.hexdigest()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"])
def test_nan_is_found_where_rows_are_written_as_they_are_stored(tmp_path, tiny_model, name, dtype, value):
    model = tiny_model("llama", tied=False, layers=2).to(getattr(torch, dtype))
    parameter = model.get_parameter(name)
    with torch.no_grad():
        parameter.view(-1)[-3] = value
    place = [int(index) for index in np.unravel_index(parameter.numel() - 3, parameter.shape)]
    model.save_pretrained(tmp_path / "source")
    growth = {"depth": "list", "layers": [0, 1, 0, 1]}
    growth = offline(tmp_path / "source", tmp_path / "out", {"num_hidden_layers": 4}, growth, seed=3)
    with pytest.raises(UserError, match=rf"tensor '{re.escape(name)}' holds {value} at {re.escape(str(place))}"):
        growth.execute(lambda _: {})
    assert {path.name for path in tmp_path.iterdir()} == {"source"}
