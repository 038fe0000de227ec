"""On paper: what growing a 13B model into a 175B one costs on 128 nodes, by the code that plans a growth.

python -m tests.benchmarks.paper [--nodes 128] [--ranks_per_node 8] [--disk_gb_s 10] [--network_gb_s 25]

Nothing is read or computed of either model: their configurations are enough.
"""

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import GPT2Config

from pipeline.growth.listing import ranks_memory
from pipeline.growth.memory import growing_bytes, widest
from pipeline.growth.offline import OfflineGrowth, Request
from pipeline.growth.optimizer_growth import grow_optimizer
from pipeline.growth.probe import elements
from pipeline.growth.reading import bytes_read
from pipeline.growth.state import Described, OptimizerState, State
from pipeline.growth.zero_files import bytes_of_rank
from pipeline.recipe import GrowthConfig
from tests.benchmarks.measuring import GIB, cost_of, part_parser, publish, table

SOURCE = {"n_layer": 40, "n_embd": 5120, "n_head": 40}
TARGET = {"n_layer": 96, "n_embd": 12288, "n_head": 96}
COMMON = {"n_positions": 2048, "vocab_size": 50257, "dtype": torch.bfloat16}
"""Brown et al. 2020, table 2.1, with heads of 128 channels in both."""

_FLOAT, _HALF = 4, 2


def planned(source: Path, target: Path, ranks: int) -> OfflineGrowth:
    """Return the growth by FPI and stacking, as `launch/grow.py --dry_run` plans it."""
    growth = GrowthConfig(width="fpi", depth="stack")
    out = source.parent / "grown"
    request = Request(source, target, growth, 1234, format="zero3", dtype="bfloat16", world_size=ranks, out=out)
    return OfflineGrowth(request, preview=True)


def what_grows(growth: OfflineGrowth) -> dict[str, tuple[State, OptimizerState | None]]:
    """Return the grown weights, and the grown optimizer's state where it is grown too, by what the table calls them."""
    source = growth.source.state
    # Adam's state, as a ZeRO checkpoint of the source holds it beside float32 masters.
    masters = {name: Described(tensor.shape, torch.float32) for name, tensor in source.items()}
    moments = {
        name: {"exp_avg": Described(t.shape, torch.float32), "exp_avg_sq": Described(t.shape, torch.float32), "step": 1.0}
        for name, t in source.items()
    }
    optimizer = grow_optimizer(growth.plan, moments)
    return {
        "weights, from bfloat16 files": (growth.grown, None),
        "weights and Adam's state, from a checkpoint": (growth.plan.grow(masters), optimizer),
    }


def sections(arguments: argparse.Namespace, growth: OfflineGrowth) -> None:
    nodes, node = arguments.nodes, arguments.ranks_per_node
    ranks, grown, source = nodes * node, growth.grown, growth.source.state
    cases = what_grows(growth)
    kept, longest = ranks_memory(growth), widest(source, grown)
    small, large = elements(source), elements(grown)
    largest = max(math.prod(tensor.shape) for tensor in grown.values())
    disk, network = arguments.disk_gb_s * 1e9, arguments.network_gb_s * 1e9
    read, held, seconds, reading = [], [], [], []
    # Once into each node, whose ranks pass it on.
    constructed = large * _HALF / network
    for name, (state, adam) in cases.items():
        rank, here = bytes_read(state, adam, ranks), bytes_read(state, adam, ranks, node)
        written = bytes_of_rank(growth.plan.graph, state, ranks, adam)
        # The whole way: both models in one process, the target's pieces sent to the ranks.
        stored = small * (_FLOAT * 3 if adam else _HALF)
        whole = large * (_FLOAT * 3 if adam else _FLOAT)
        read.append([name, rank.most / GIB, here.most / GIB, here.total / GIB, written / GIB, written * ranks / GIB])
        read.append([f"{name}: both models whole", *[stored / GIB] * 3, whole / GIB, whole / GIB])
        held.append([name, growing_bytes(kept, adam is not None, longest) / GIB, kept.total / GIB, (stored + whole) / GIB])
        # launch/grow.py is one process: it reads the source for its digest, then every rank's rows.
        offline = stored + rank.total + written * ranks
        sent = stored / disk + whole / network
        reading.append([name, here.most / disk, here.total / disk])
        seconds.append([name, constructed + here.most / disk, offline / disk, constructed + sent, (stored + whole) / disk])
    reading.append(["a certificate, for each held-out batch", small * _HALF / disk, nodes * small * _HALF / disk])
    publish(
        arguments.out,
        f"On paper: {small / 1e9:.1f}B to {large / 1e9:.1f}B on {nodes} nodes of {node} ranks",
        "GPT-2's family, {n_layer} x {n_embd} to ".format(**SOURCE)
        + "{n_layer} x {n_embd}, FPI and stacking, ".format(**TARGET)
        + "by the code that plans a growth; nothing was run at this size. GiB. Beside it one process that holds both models "
        "whole, reads the source, and writes the target or sends its pieces to the ranks.",
        table(["grown", "read by a rank", "by a node", "by all", "written offline, a rank", "all"], read),
        "`by a node` counts a row once for a node's ranks, which share its page cache. Between ranks growth sends nothing, but "
        "for what a shared file system sends, which is in what is read and written; both models whole in one process send all "
        "that they would have written. DeepSpeed, however its weights come, broadcasts each parameter while it constructs a "
        f"ZeRO-3 model: {large * _HALF / GIB:,.0f} GiB into each rank here, of which it holds one parameter at a time, "
        f"{largest * _HALF / GIB:.1f} GiB at most, beside the memory below.",
        table(["grown", "held by a rank while growing", "while training", "by the process that holds both whole"], held),
        "Seconds of reading, writing and sending alone, without the processors' work, where a node reads or writes "
        f"{arguments.disk_gb_s:g} GB/s and sends {arguments.network_gb_s:g} GB/s: live, all nodes at once; offline, "
        "launch/grow.py on one node, which writes all ranks' files; one process with both. What is "
        f"live has that broadcast in it, {constructed:.1f} s where it goes once into each node, and no certificate.",
        table(["grown", "live", "offline", "whole, then sent, live", "whole, then written"], seconds),
        f"The reading in `live` assumes one source that gives all nodes {arguments.disk_gb_s:g} GB/s each at once, "
        f"{nodes * disk / 1e12:.2f} TB/s in all. Beside it the same from a file system that gives them "
        f"{arguments.disk_gb_s:g} GB/s together. A run's certificate reads more than growth: every rank streams the whole "
        f"source ({small * _HALF / GIB:,.0f} GiB) for every held-out batch that both models are compared on, from the file "
        "system once a node for all batches where its page cache holds that, and once a node for each batch where not; and "
        "the first rank once more for its digest. Seconds of reading alone.",
        table(["", "each node at that rate", "all nodes together"], reading),
    )


def main() -> None:
    """Write both configurations, plan, publish; and time the command that a person would type."""
    parser = part_parser(__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=128)
    parser.add_argument("--ranks_per_node", type=int, default=8)
    parser.add_argument("--disk_gb_s", type=float, default=10.0, help="what a node reads or writes (default: %(default)s)")
    parser.add_argument("--network_gb_s", type=float, default=25.0, help="what a node sends, 200 Gb/s (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source", Path(folder) / "target"
        GPT2Config(**SOURCE, **COMMON).save_pretrained(source)
        GPT2Config(**TARGET, **COMMON).save_pretrained(target)
        ranks = arguments.nodes * arguments.ranks_per_node
        began = time.perf_counter()
        growth = planned(source, target / "config.json", ranks)
        sections(arguments, growth)
        print(f"planned and counted in {time.perf_counter() - began:.1f} s", file=sys.stderr)
        if arguments.quick:
            return
        words = [sys.executable, "launch/grow.py", "--source", source, "--target", target / "config.json", "--format", "zero3"]
        words += ["--world_size", ranks, "--dtype", "bfloat16", "--out", Path(folder) / "grown", "--dry_run"]
        cost = cost_of(words)
        publish(
            arguments.out,
            "The dry run at that size",
            f"`launch/grow.py --dry_run` of it takes {cost.cpu:.1f} s of one processor, imports included, and "
            f"{cost.peak / GIB:.2f} GiB.",
        )


if __name__ == "__main__":
    main()
