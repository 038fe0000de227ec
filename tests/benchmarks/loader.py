"""The loader: its start at any number of windows, its tokens a second beside what a training step consumes, and beside
those from fewer shards.
"""

import itertools
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from data_prep.shards import Shard
from pipeline.common import keyed
from pipeline.data.batches import Batches
from pipeline.data.objectives import CausalObjective, MaskedObjective
from pipeline.growth.initialization import initialized
from pipeline.recipe import OptimizerConfig
from pipeline.training import distributed
from pipeline.training.engine import build
from pipeline.training.losses import summed_loss
from pipeline.training.parameter_groups import cut
from tests.benchmarks.made_up import batches, corpus, scratch
from tests.benchmarks.measuring import MIB, publish, table, zero_json
from tests.ranks import run_ranks
from tests.shards import write_shard

_VOCABULARY = 8192
_SEQUENCES = 32
_SHARDS = 1000
_SPECIAL = (0, 1, 2, 3, 4)
_TARGET = 50


@dataclass(frozen=True)
class Size:
    tokens: int
    shards: tuple[int, ...]
    seconds: float
    """For which loading is timed, and a sixth of training."""
    lengths: tuple[int, ...]


FULL, QUICK = Size(16_000_000, (8, 100, _SHARDS), 2.0, (128, 512)), Size(160_000, (1, 4), 0.1, (128,))


class Simulated:
    """A shard of any size that is nowhere: every token is the same, and one document holds them all."""

    def __init__(self, size: int) -> None:
        self.size = size

    def read(self, begin: int, end: int) -> np.ndarray:
        return np.full(end - begin, 7)

    def boundaries(self, begin: int, end: int) -> np.ndarray:
        return np.empty(0, dtype=np.int64)


def loaded_from(directory: Path, kind: str, length: int, *, within_documents: bool = False) -> Batches:
    """Return the batches of a folder's shards for the objective of that name."""
    objective = CausalObjective(length) if kind == "clm" else MaskedObjective(length, _VOCABULARY, 2, 4, _SPECIAL)
    shards = [Shard(path.with_suffix("")) for path in sorted(directory.glob("*.idx"))]
    return batches(shards, objective, within_documents=within_documents)


def first_batch(windows: int, corpora: int) -> tuple[float, float]:
    """Return (ms, MiB allocated at most) from sizes of shards to the first batch of that many windows in all."""
    causal = CausalObjective(512)
    shards = [Simulated(windows // corpora // _SHARDS * 512 + 1) for _ in range(_SHARDS)]

    def load() -> None:
        loaded = Batches([corpus(shards, causal, str(number)) for number in range(corpora)], 1)
        assert len(loaded) == windows
        loaded.training(np.arange(_SEQUENCES))

    began = time.perf_counter()
    load()
    seconds = time.perf_counter() - began
    # A pass of its own: tracing takes time.
    tracemalloc.start()
    load()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return seconds * 1e3, peak / MIB


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


def write_shards(directory: Path, count: int, tokens: int) -> Path:
    """Write so many tokens into that many shards, and return their folder."""
    folder = directory / str(count)
    folder.mkdir()
    for number in range(count):
        # Documents of 400 tokens, like those of the quickstart.
        ids = keyed.below(("text", number), 0, tokens // count, _VOCABULARY - 5).reshape(-1, 1, 400) + 5
        write_shard(folder / str(number), ids, _VOCABULARY)
    return folder


def loading(directory: Path, kind: str, length: int, seconds: float, *, within_documents: bool = False) -> float:
    """Return the loader's tokens a second, from shards on disk in shuffled order."""
    loaded = loaded_from(directory, kind, length, within_documents=within_documents)
    return tokens_per_second(
        lambda step: loaded.training(np.arange(step * _SEQUENCES, (step + 1) * _SEQUENCES)), _SEQUENCES * length, seconds
    )


def training(directory: Path, length: int, seconds: float, *, half: bool) -> float:
    """Return the tokens a second that a step of a GPT-2 of 4 layers x 128 consumes here, loading included.

    In bf16, or in fp32, which on a CPU may be the faster.
    """
    family, config = scratch("gpt2", 4, 128, _VOCABULARY, length, heads=4)
    ds_config = zero_json(3, _SEQUENCES, half=half)
    trained = build(family, config, initialized(family, config, 1), ds_config, OptimizerConfig(), cut(4, []), "eager")
    loaded = loaded_from(directory, "clm", length)

    def step(number: int) -> None:
        batch = loaded.training(np.arange(number * _SEQUENCES, (number + 1) * _SEQUENCES))
        loss = summed_loss(trained.logits(**batch.inputs(distributed.device())).tokens, batch.labels)
        trained.engine.backward(loss / batch.scored)
        trained.engine.step()

    return tokens_per_second(step, _SEQUENCES * length, seconds)


def starting(out: Path | None) -> None:
    first_batch(10**6, 1)  # what is imported and set up once
    rows = []
    for corpora, windows in itertools.product((1, 2), (10**6, 10**9)):
        milliseconds, mib = first_batch(windows, corpora)
        rows.append([f"{windows:,} windows of {corpora} corpora", milliseconds, mib])
    publish(
        out,
        "The loader's start",
        f"From the sizes of {_SHARDS:,} shards to the first batch of {_SEQUENCES} sequences, in a shuffled order.",
        table(["", "ms", "MiB allocated"], rows),
    )


def reading(directory: Path, size: Size, out: Path | None) -> None:
    """Publish the loader's tokens a second, from few and many shards and beside what a training step consumes."""
    folders = [write_shards(directory, count, size.tokens) for count in size.shards]
    torch.set_num_threads(1)
    rows = []
    for within_documents in (False, True):
        rates = [loading(folder, "clm", 128, size.seconds, within_documents=within_documents) for folder in folders]
        what = "documents kept separate" if within_documents else "documents packed"
        rows += [[f"{folder.name} shards, {what}", rate, rate / rates[0]] for folder, rate in zip(folders, rates, strict=True)]
    publish(
        out,
        "The loader, by how many shards there are",
        f"{size.tokens:,} tokens in shards on disk, windows of 128 in shuffled order, one core.",
        table(["", "tokens/s", "of the first's"], rows),
    )
    rows = []
    for length in size.lengths:
        consumed = {
            name: run_ranks(partial(training, half=half), 1, folders[0], length, 6 * size.seconds, timeout=600)[0]
            for name, half in (("bf16", True), ("fp32", False))
        }
        fastest = max(consumed, key=consumed.__getitem__)
        for kind in ("clm", "mlm"):
            loaded = loading(folders[0], kind, length, size.seconds)
            rows.append([f"{kind}, windows of {length}", loaded, consumed[fastest], loaded / consumed[fastest]])
    publish(
        out,
        "The loader against a training step",
        "Tokens a second that the loader gives on one core, and that a GPT-2 of 4 layers x 128 under ZeRO-3 consumes on one, "
        f"loading included, in bf16 or fp32, whichever is faster there. The aim is {_TARGET} times.",
        table(["", "loader, tokens/s", "training, tokens/s", "loader / training"], rows),
    )


def loading_and_training(quick: bool, out: Path | None) -> None:
    starting(out)
    with tempfile.TemporaryDirectory() as name:
        reading(Path(name), QUICK if quick else FULL, out)
