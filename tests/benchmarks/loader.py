"""The loader: its start at any number of windows, its tokens a second beside what a training step consumes, and beside
those from fewer shards.

python -m tests.benchmarks.loader
"""

import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from data_prep.shards import Shard
from pipeline import keyed
from pipeline.data.batches import Batches, Corpus
from pipeline.data.examples import WindowExamples
from pipeline.data.objectives import CausalObjective, MaskedObjective, Objective
from pipeline.data.windows import Windows
from pipeline.families import FAMILIES, scratch_config
from pipeline.growth.initialization import initialized
from pipeline.recipe import ModelConfig, OptimizerConfig
from pipeline.training import distributed
from pipeline.training.blocks import cut
from pipeline.training.engine import build
from pipeline.training.losses import summed_loss
from tests.ranks import run_ranks
from tests.shards import write_shard

_MIB = 2**20
_VOCABULARY = 8192
_SEQUENCES = 32
_SHARDS = 1000
_FEW_SHARDS = 8
_TOKENS = 16_000_000
_SPECIAL = (0, 1, 2, 3, 4)
_TARGET = 50


class Simulated:
    """A shard of any size that is nowhere: every token is the same, and one document holds them all."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.tokens = np.broadcast_to(np.uint16(7), size)

    def boundaries(self, begin: int, end: int) -> np.ndarray:
        """Return no boundary."""
        return np.empty(0, dtype=np.int64)


def objective(kind: str, length: int) -> Objective:
    """Return the objective of that name."""
    return CausalObjective(length) if kind == "clm" else MaskedObjective(length, _VOCABULARY, 2, 4, _SPECIAL)


def first_batch(windows: int, corpora: int) -> tuple[float, float]:
    """Return (ms, MiB allocated at most) from sizes of shards to the first batch of that many windows in all."""
    causal = CausalObjective(512)
    shards = [Simulated(windows // corpora // _SHARDS * 512 + 1) for _ in range(_SHARDS)]

    def load() -> None:
        parts = [
            Corpus(str(number), 1.0, WindowExamples(Windows(shards, *causal.window), causal, apart=False))
            for number in range(corpora)
        ]
        batches = Batches(parts, 1)
        assert len(batches) == windows
        batches.training(np.arange(_SEQUENCES))

    began = time.perf_counter()
    load()
    seconds = time.perf_counter() - began
    # A pass of its own: tracing takes time.
    tracemalloc.start()
    load()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return seconds * 1e3, peak / _MIB


def tokens_per_second(step: Callable[[int], object], tokens: int, seconds: float) -> float:
    """Return the median rate of steps, for about so many seconds; the first one is not counted."""
    step(0)
    rates, number, end = [], 1, time.perf_counter() + seconds
    while time.perf_counter() < end or len(rates) < 3:
        began = time.perf_counter()
        step(number)
        rates.append(tokens / (time.perf_counter() - began))
        number += 1
    return statistics.median(rates)


def write_shards(directory: Path, count: int) -> Path:
    """Write _TOKENS into that many shards, and return their folder."""
    folder = directory / str(count)
    folder.mkdir()
    for number in range(count):
        # Documents of 400 tokens, like those of the quickstart.
        tokens = keyed.below(("text", number), 0, _TOKENS // count, _VOCABULARY - 5).reshape(-1, 1, 400) + 5
        write_shard(folder / str(number), tokens, _VOCABULARY)
    return folder


def loading(directory: Path, kind: str, length: int, *, apart: bool = False) -> float:
    """Return the loader's tokens a second, from shards on disk in shuffled order."""
    wanted = objective(kind, length)
    shards = [Shard(path.with_suffix("")) for path in sorted(directory.glob("*.idx"))]
    batches = Batches([Corpus("text", 1.0, WindowExamples(Windows(shards, *wanted.window), wanted, apart=apart))], 1)
    return tokens_per_second(
        lambda step: batches.training(np.arange(step * _SEQUENCES, (step + 1) * _SEQUENCES)), _SEQUENCES * length, 3.0
    )


def training(directory: Path, length: int, *, half: bool) -> float:
    """Return the tokens a second that a step of a GPT-2 of 4 layers x 128 consumes here, loading included.

    In bf16, or in fp32, which on a CPU may be the faster.
    """
    family = FAMILIES["gpt2"]
    model = ModelConfig(family="gpt2", hidden_size=128, num_hidden_layers=4, num_attention_heads=4)
    config = scratch_config(model, _VOCABULARY, 0, length)
    ds_config = {
        "train_batch_size": _SEQUENCES,
        "bf16": {"enabled": half},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": 3},
    }
    trained = build(family, config, initialized(family, config, 1), ds_config, OptimizerConfig(), cut(4, []), "eager")
    wanted = objective("clm", length)
    shards = [Shard(path.with_suffix("")) for path in sorted(directory.glob("*.idx"))]
    batches = Batches([Corpus("text", 1.0, WindowExamples(Windows(shards, *wanted.window), wanted, apart=False))], 1)

    def step(number: int) -> None:
        batch = batches.training(np.arange(number * _SEQUENCES, (number + 1) * _SEQUENCES))
        loss = summed_loss(trained.logits(**batch.inputs(distributed.device())).tokens, batch.labels)
        trained.engine.backward(loss / batch.scored)
        trained.engine.step()

    return tokens_per_second(step, _SEQUENCES * length, 20.0)


def main() -> None:
    """Print both starts and both ratios."""
    first_batch(10**6, 1)  # what is imported and set up once
    for corpora in (1, 2):
        for windows in (10**6, 10**9):
            ms, mib = first_batch(windows, corpora)
            print(f"first batch of {windows:,} windows, {corpora} of equal weight: {ms:.1f} ms, {mib:.1f} MiB")
    with tempfile.TemporaryDirectory() as name:
        folders = [write_shards(Path(name), count) for count in (_FEW_SHARDS, 100, _SHARDS)]
        directory = folders[0]
        began = time.perf_counter()
        for number in range(_SHARDS):
            Shard(folders[-1] / str(number))
        print(f"opening {_SHARDS} shards: {(time.perf_counter() - began) * 1e3:.1f} ms")
        torch.set_num_threads(1)
        for apart in (False, True):
            rates = [loading(folder, "clm", 128, apart=apart) for folder in folders]
            told = ", ".join(
                f"{folder.name} shards {rate:,.0f} tokens/s ({rate / rates[0]:.2f})"
                for folder, rate in zip(folders, rates, strict=True)
            )
            print(f"S = 128, documents {'apart' if apart else 'not looked for'}: {told}")
        for length in (128, 512):
            rates = [run_ranks(partial(training, half=half), 1, directory, length, timeout=600)[0] for half in (True, False)]
            consumed = max(rates)
            print(f"S = {length}: training consumes {rates[0]:,.0f} tokens/s in bf16, {rates[1]:,.0f} in fp32, on one core")
            for kind in ("clm", "mlm"):
                loaded = loading(directory, kind, length)
                print(f"  {kind}: loader {loaded:,.0f} tokens/s, {loaded / consumed:.0f} times as many (target: {_TARGET})")


if __name__ == "__main__":
    main()
