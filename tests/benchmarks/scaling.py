"""How cost grows with size, each with its exponent: cost = c size^e, e by least squares of logarithms.

python -m tests.benchmarks.scaling [--parts target ranks corpus checkpoint]

target      growth offline and live, the target's parameters x1, x2, x4
ranks       growth offline and live, at W = 1, 2, 4
corpus      the whole preparation of text, x1, x2, x4
checkpoint  saving and loading a checkpoint, against its bytes
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from data_prep.settings import CorpusConfig, DataPrepConfig, TokenizerConfig
from pipeline.common.quiet import quieten
from pipeline.families import FAMILIES, graph_of
from pipeline.growth.initialization import initialized
from pipeline.growth.offline import OfflineGrowth, Request
from pipeline.growth.sources import open_source
from pipeline.growth.state import Constant, OptimizerState
from pipeline.growth.zero_sink import fill_engine
from pipeline.recipe import CheckpointingConfig, GrowthConfig, OptimizerConfig, TargetConfig
from pipeline.training.directory.checkpoints import Checkpoints, TrainState
from pipeline.training.engine import build
from pipeline.training.parameter_groups import cut
from tests.benchmarks.data_prep import documents, prepare_alone, write_jsonl
from tests.benchmarks.growth import gpt2, write_source
from tests.benchmarks.live_growth import started
from tests.benchmarks.measuring import (
    MIB,
    Cost,
    add_text,
    described,
    exponent,
    in_turn,
    measured,
    part_parser,
    publish,
    table,
    zero_json,
)
from tests.ranks import run_ranks

TIMES = (1, 2, 4)
"""Of the target's parameters, of ranks, and of text."""


def parameters(layers: int, hidden: int) -> int:
    return graph_of(gpt2(layers, hidden)).parameters


def of_parameters(target: tuple[int, int], times: int) -> tuple[int, int]:
    """Return the (layers, hidden size) of so many times the parameters, as nearly as layers can tell."""
    layers, hidden = target
    each = parameters(2, hidden) - parameters(1, hidden)
    embeddings = parameters(1, hidden) - each
    return round((times * parameters(layers, hidden) - embeddings) / each), hidden


def grow_offline(source: Path, layers: int, hidden: int, ranks: int, out: Path) -> None:
    """Write a ZeRO-3 checkpoint, as launch/grow.py does."""
    target, growth = TargetConfig(hidden_size=hidden, num_hidden_layers=layers), GrowthConfig(width="fpi", depth="last_layer")
    request = Request(source, target, growth, 1234, format="zero3", dtype="bfloat16", world_size=ranks, out=out)
    OfflineGrowth(request).execute(lambda certificate: {})


def offline(source: Path, target: tuple[int, int], ranks: int) -> Cost:
    out = source.parent / "grown"
    shutil.rmtree(out, ignore_errors=True)
    return measured(grow_offline, source, *target, ranks, out)


def live(source: Path, target: tuple[int, int], ranks: int) -> Cost:
    """Return what the rank that takes most takes to start a grown engine."""
    taken = started(source, target, ranks, fresh=False)
    return Cost(*(max(getattr(cost, field) for cost in taken) for field in ("seconds", "cpu", "peak")))


def fitted(name: str, sizes: Sequence[float], costs: Sequence[Cost]) -> list[list[object]]:
    """Return a table's lines on one way of working: seconds, processor seconds and memory by size, and their exponents."""
    return [
        [f"{name}: {what}", *values, f"{exponent(sizes, values):.2f}"]
        for what, values in (
            ("seconds", [cost.seconds for cost in costs]),
            ("processor seconds", [cost.cpu for cost in costs]),
            ("anonymous MiB", [cost.peak / MIB for cost in costs]),
        )
    ]


def fastest(runs: list[Cost]) -> Cost:
    return min(runs, key=lambda cost: cost.seconds)


def part_target(arguments: argparse.Namespace, folder: Path) -> None:
    targets = [of_parameters(arguments.target, times) for times in TIMES]
    sizes = [parameters(*target) for target in targets]
    rows = []
    for name, work in (("offline", offline), ("live", live)):
        works = {str(target): lambda target=target, work=work: work(folder / "source", target, 1) for target in targets}
        rows += fitted(name, sizes, [fastest(runs) for runs in in_turn(works, arguments.rounds).values()])
    publish(
        arguments.out,
        "Cost of growth by the target's size",
        f"GPT-2 {arguments.source} in bfloat16, FPI and silent layers, one rank, imports left out; offline to a ZeRO-3 "
        "checkpoint, with digest and certificate; live to an engine's first step, measured beside its source, without "
        f"digest and comparison. The faster of {arguments.rounds} rounds.",
        table(["", *(f"{size / 1e6:,.0f}M" for size in sizes), "exponent"], rows),
    )


def part_ranks(arguments: argparse.Namespace, folder: Path) -> None:
    """Ranks: offline one process writes all their files, live each fills its own."""
    rows = []
    for name, work in (("offline, one process", offline), ("live, the rank that takes most", live)):
        works = {str(ranks): lambda ranks=ranks, work=work: work(folder / "source", arguments.target, ranks) for ranks in TIMES}
        rows += fitted(name, TIMES, [fastest(runs) for runs in in_turn(works, arguments.rounds).values()])
    publish(
        arguments.out,
        "Cost of growth by ranks",
        f"GPT-2 {arguments.source} in bfloat16 to {arguments.target}. Live ranks share this machine's processors: it is their "
        "processor seconds that tell how much each has to do. The faster of "
        f"{arguments.rounds} rounds.",
        table(["", *(f"W = {ranks}" for ranks in TIMES), "exponent"], rows),
    )


def part_corpus(arguments: argparse.Namespace, folder: Path) -> None:
    """Text prepared by the command: tokenizer, near-duplicates and all."""
    sizes = [times * arguments.megabytes for times in TIMES]
    works = {}
    for size in sizes:
        text, out = folder / f"{size}.jsonl", folder / f"{size}.out"
        write_jsonl(text, documents(size, arguments.text))
        tokenizer = TokenizerConfig(vocab_size=8000, algorithm="byte_level_bpe", family="gpt2", sample_characters=500_000)
        corpora = [CorpusConfig(files=[str(text)], dedupe="near")]
        settings = DataPrepConfig(output_dir=str(out), corpora=corpora, tokenizer=tokenizer)

        def work(settings: DataPrepConfig = settings, out: Path = out) -> Cost:
            shutil.rmtree(out, ignore_errors=True)
            return measured(prepare_alone, settings)

        works[str(size)] = work
    costs = [fastest(runs) for runs in in_turn(works, arguments.rounds).values()]
    publish(
        arguments.out,
        "Cost of data preparation by the corpus",
        "All that `python -m data_prep run` does, by one process, imports left out: a tokenizer on the same sample, exact and "
        f"near-duplicates, shards. The text: {described(arguments.text)}.",
        table(["", *(f"{size:g} MB" for size in sizes), "exponent"], fitted("whole", sizes, costs)),
    )


def save_and_load(folder: Path, layers: int, hidden: int) -> tuple[float, float, int]:
    """Return the seconds of saving one rank's engine and of loading it again, and the checkpoint's bytes."""
    config = gpt2(layers, hidden)
    family = FAMILIES["gpt2"]
    state = initialized(family, config, 1)
    moments: OptimizerState = {
        name: {"exp_avg": Constant(tensor.shape, 1e-3), "exp_avg_sq": Constant(tensor.shape, 1e-6), "step": 1.0}
        for name, tensor in state.items()
    }
    model = build(family, config, state, zero_json(3, half=True), OptimizerConfig(), cut(layers, []), "sdpa", moments)
    directory = folder / "checkpoints"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    began = time.perf_counter()
    saved = TrainState(step=1)
    Checkpoints(directory, CheckpointingConfig()).save(model, saved, must=True)
    saving = time.perf_counter() - began
    began = time.perf_counter()
    source = open_source(directory)
    fill_engine(model.engine, source.state, source.optimizer)
    loading = time.perf_counter() - began
    return saving, loading, sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def part_checkpoint(arguments: argparse.Namespace, folder: Path) -> None:
    """Saving and loading by bytes, each in an engine of its own."""
    rows: list[list[object]] = []
    for times in TIMES:
        target = of_parameters(arguments.target, times)
        (run,) = run_ranks(save_and_load, 1, folder, *target, timeout=600)
        rows.append([f"GPT-2 {target}", run[2] / MIB, run[0], run[1]])
    sizes = [row[1] for row in rows]
    columns = [[row[column] for row in rows] for column in (2, 3)]
    publish(
        arguments.out,
        "Cost of a checkpoint by its bytes",
        "One rank under ZeRO-3, weights, masters and Adam's state: saved with digests and flushed to disk; loaded with every "
        "digest compared, into an engine that is there. What was just written may still be in the page cache then.",
        table(
            ["", "MiB", "seconds to save", "to load"],
            [*rows, ["exponent", "", *(f"{exponent(sizes, column):.2f}" for column in columns)]],
        ),
    )


def main() -> None:
    parts = {"target": part_target, "ranks": part_ranks, "corpus": part_corpus, "checkpoint": part_checkpoint}
    parser = part_parser(__doc__.splitlines()[0], list(parts))
    add_text(parser)
    arguments = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    arguments.source, arguments.target, arguments.megabytes, arguments.rounds = (12, 768), (12, 1024), 4, 2
    if arguments.quick:
        arguments.source, arguments.target, arguments.megabytes, arguments.rounds = (2, 64), (4, 128), 1, 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_source(folder / "source", gpt2(*arguments.source), torch.bfloat16)
        for part in arguments.parts:
            parts[part](arguments, folder)


if __name__ == "__main__":
    main()
