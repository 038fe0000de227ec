"""What growth is said to hold at once, against what a process holds."""

import ctypes
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config

from pipeline.families import FAMILIES
from pipeline.growth.huggingface import MappedTensor
from pipeline.growth.memory import RankBytes, growing_bytes
from pipeline.growth.state import flat
from tests.pipeline.growth.models import plan_of
from tests.ranks import run_ranks

CHUNK = 2**20
_MMAP_THRESHOLD = -3
"""glibc's name for it."""


GROWTHS = [
    {"width": "fpi"},
    {"width": "fpi", "map": "random"},
    {"width": "fpi", "symmetry": "paired", "noise": 0.3},
    {"width": "aki"},
]


def held(growth: dict) -> int:
    """Return the bytes that one chunk of a grown FFN matrix takes at most, the piece it is written to left out."""
    # What is freed goes back at once, so that later growths do not find it.
    ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 2**20)
    config = GPT2Config(n_embd=256, n_layer=1, n_head=4, n_inner=1024, vocab_size=50, bos_token_id=0, eos_token_id=0)
    model = FAMILIES["gpt2"].model_class(config)
    plan, _ = plan_of(model, {"hidden_size": 512, "intermediate_size": CHUNK // 512}, growth)
    grown = plan.grow({name: MappedTensor(tensor.detach()) for name, tensor in model.named_parameters()})
    tensor, piece = grown["transformer.h.0.mlp.c_proj.weight"], torch.zeros(CHUNK)
    for _ in range(2):  # the first time brings code into memory, too
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        before = resident("VmRSS")
        piece[:] = flat(tensor, 0, CHUNK)
        peak = resident("VmHWM") - before
    return peak


def resident(field: str) -> int:
    """Return the bytes that this process has in memory now, or had at most since `clear_refs` was written to."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return int(lines[field].split()[0]) * 1024


@pytest.mark.slow
@pytest.mark.parametrize("growth", GROWTHS)
def test_a_chunk_takes_no_more_than_is_said(growth, monkeypatch):
    monkeypatch.setattr("pipeline.growth.memory.CHUNK_ELEMENTS", CHUNK)
    (peak,) = run_ranks(held, 1, growth, timeout=60)
    said = growing_bytes(RankBytes(0, 0, 0, 0, 0), optimizer=False, widest=512)
    # Nothing at all would mean that nothing was measured: what is made of it is a chunk itself.
    assert 0.5 * CHUNK * torch.float32.itemsize < peak <= said
