"""What growth costs, as ratios within one run: against copying bytes, against the naive way, and in memory.

python -m tests.benchmarks.growth [--parts copy naive offline] [--source 24,1024] [--target 36,1280] ...

No figure of one machine says anything of another; the ratios do. A small run:
python -m tests.benchmarks.growth --source 2,128 --target 4,256 --llama 2,128 --llama_target 4,256
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, LlamaConfig, PretrainedConfig

from pipeline.command import quieten
from pipeline.families import FAMILIES, sizes_of, target_config
from pipeline.growth.huggingface import open_huggingface
from pipeline.growth.huggingface_sink import write_huggingface
from pipeline.growth.plan import GrowthPlan, plan_growth
from pipeline.growth.probe import elements
from pipeline.growth.state import Source, State, flat
from pipeline.growth.streaming import CHUNK_ELEMENTS, row_chunks
from pipeline.recipe import GrowthConfig, TargetConfig
from tests.benchmarks.memory import Watched, anonymous

ROOT = Path(__file__).parents[2]
MIB = 2**20


class Drawn:
    """A tensor of random values, drawn anew at each reading."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Return rows [start, stop)."""
        return torch.empty(stop - start, *self.shape[1:]).uniform_(-0.03, 0.03)


def write_source(directory: Path, config: PretrainedConfig, dtype: torch.dtype) -> None:
    """Write a model of random weights."""
    directory.mkdir()
    family, sizes = FAMILIES[config.model_type], sizes_of(config)
    state = {name: Drawn(sizes.shape(spec)) for name, (spec, _) in family.specs(sizes).items()}
    write_huggingface(directory, config, state, dtype)


def planned(directory: Path, layers: int, hidden: int) -> tuple[Source, PretrainedConfig, GrowthPlan]:
    """Return the source in `directory` and its growth by FPI and silent layers, without noise."""
    source = open_huggingface(directory)
    target = target_config(source.config, TargetConfig(hidden_size=hidden, num_hidden_layers=layers))
    return source, target, plan_growth(source.config, target, GrowthConfig(width="fpi", depth="last_layer"), 0)


def best(repeats: int, work: Callable[[], None]) -> float:
    """Return the least seconds that `work` took."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


def compute(state: State) -> None:
    """Compute every byte of a state, a chunk of rows at a time."""
    for tensor in state.values():
        for _ in row_chunks(tensor):
            pass


def copy_as_much(state: State, origin: torch.Tensor) -> None:
    """Copy as many bytes in chunks of the same sizes, walking through `origin` again and again."""
    place = 0
    for tensor in state.values():
        step = max(1, CHUNK_ELEMENTS // max(1, math.prod(tensor.shape[1:]))) * math.prod(tensor.shape[1:])
        for start in range(0, math.prod(tensor.shape), step):
            size = min(step, math.prod(tensor.shape) - start)
            if place + size > origin.numel():
                place = 0
            origin[place : place + size].clone()
            place += size


def naive(directory: Path, layers: int, hidden: int) -> None:
    """Both Hugging Face models whole, each grown tensor made whole by indexing."""
    source, target, plan = planned(directory, layers, hidden)
    family = source.family
    small = family.model_class.from_pretrained(directory, dtype=torch.float32)
    large = family.model_class(target)
    held, written = dict(small.named_parameters()), dict(large.named_parameters())
    with torch.no_grad():
        for name, (spec, layer) in family.specs(plan.target).items():
            origin = None if layer is None else plan.layers[layer]
            if origin is not None and origin.silent and spec.writes_residual:
                written[name].zero_()
                continue
            values = held[spec.name if origin is None else spec.name.format(layer=origin.source)]
            for axis, side in enumerate(plan.tensor_sides(spec)):
                if side is not None:
                    values = values.index_select(axis, side.indices)
                    if side.scale is not None:
                        values = values * (side.scale.float() if axis or values.ndim == 1 else side.scale.float()[:, None])
            written[name].copy_(values)


def ours(directory: Path, layers: int, hidden: int, ranks: int) -> None:
    """One rank's pieces of every tensor, in float32, as ZeRO-3 cuts them."""
    source, _, plan = planned(directory, layers, hidden)
    state = plan.grow(source.state)
    pieces = [-(-math.prod(tensor.shape) // ranks) for tensor in state.values()]
    piece, begin = torch.empty(sum(pieces)), 0
    for tensor, size in zip(state.values(), pieces, strict=True):
        end = min(size, math.prod(tensor.shape))
        for start in range(0, end, CHUNK_ELEMENTS):
            stop = min(start + CHUNK_ELEMENTS, end)
            piece[begin + start : begin + stop] = flat(tensor, start, stop)
        begin += size


def measured(work: str, *arguments: object) -> dict[str, Any]:
    """Run one of this file's functions in a process of its own; return its seconds and peak bytes."""
    command = [sys.executable, "-m", "tests.benchmarks.growth", "--work", work, *map(str, arguments)]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def work(name: str, arguments: list[str]) -> None:
    """Do what `measured` asked for, in its process."""
    function = {"naive": naive, "ours": ours}[name]
    began = time.perf_counter()
    with Watched() as watched:
        function(Path(arguments[0]), *map(int, arguments[1:]))
    print(json.dumps({"seconds": time.perf_counter() - began, "peak": watched.peak}))


def part_copy(source: Path, target: tuple[int, int], repeats: int) -> None:
    """Growth over a plain copy of as many bytes."""
    opened, _, plan = planned(source, *target)
    state = plan.grow(opened.state)
    largest = max(opened.state.values(), key=lambda tensor: math.prod(tensor.shape))
    origin = largest.rows(0, largest.shape[0]).reshape(-1)
    compute(state)  # pages come in from disk, and torch warms up
    # Turn by turn, so that a busy machine slows both.
    grown = copied = math.inf
    for _ in range(repeats):
        grown = min(grown, best(1, lambda: compute(state)))
        copied = min(copied, best(1, lambda: copy_as_much(state, origin)))
    size = elements(state) * 4 / MIB
    print(f"copy     {size:,.0f} MiB of float32, {torch.get_num_threads()} threads: {grown:.2f} s grown, {copied:.2f} s copied")
    print(f"         growth / copy = {grown / copied:.2f}")


def part_naive(source: Path, target: tuple[int, int], ranks: int, repeats: int) -> None:
    """Growth by pieces against both models whole."""

    def fastest(name: str, *arguments: object) -> dict[str, Any]:
        return min((measured(name, source, *target, *arguments) for _ in range(repeats)), key=lambda run: run["seconds"])

    whole, alone, rank = fastest("naive"), fastest("ours", 1), fastest("ours", ranks)
    for label, run in (("both models whole", whole), ("ours, one rank", alone), (f"ours, one of {ranks}", rank)):
        print(f"naive    {label:<18} {run['seconds']:6.2f} s, {run['peak'] / MIB:8,.0f} MiB anonymous at the peak")
    print(f"         time, all of the target: naive / ours = {whole['seconds'] / alone['seconds']:.2f}")
    print(f"         memory on one of {ranks} ranks: naive / ours = {whole['peak'] / rank['peak']:.2f}")


def watched_command(command: list[str]) -> tuple[int, float]:
    """Run a command; return the peak of its anonymous bytes and its seconds."""
    began, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            peak = max(peak, anonymous(process.pid))
        except OSError:
            break
        time.sleep(0.01)
    if process.wait() != 0:
        raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}")
    return peak, time.perf_counter() - began


def part_offline(source: Path, out: Path, target: tuple[int, int], width: str, formats: list[str]) -> None:
    """The peak of launch/grow.py above an interpreter that has imported torch."""
    # A second's sleep, so that the sampling cannot miss it.
    floor, _ = watched_command([sys.executable, "-c", "import torch, time; time.sleep(1)"])
    for name in formats:
        words = ["--source", source, "--target", f"num_hidden_layers={target[0]},hidden_size={target[1]}", "--width", width]
        words += ["--depth", "interleave", "--dtype", "bfloat16", "--format", name, "--out", out]
        words += ["--world_size", 4] if name == "zero3" else []
        peak, seconds = watched_command([sys.executable, "launch/grow.py", *map(str, words)])
        written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        shutil.rmtree(out)
        print(
            f"offline  {name:<5} {written / MIB:,.0f} MiB written in {seconds:.0f} s; "
            f"{peak / MIB:,.0f} MiB anonymous at the peak, {(peak - floor) / MIB:,.0f} MiB above torch alone"
        )


def pair(text: str) -> tuple[int, int]:
    """Read LAYERS,HIDDEN."""
    layers, hidden = text.split(",")
    return int(layers), int(hidden)


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=["copy", "naive", "offline"], default=["copy", "naive", "offline"])
    parser.add_argument("--source", type=pair, default=(24, 1024), help="GPT-2's layers,hidden (default: %(default)s)")
    parser.add_argument("--target", type=pair, default=(36, 1280), help="what it grows to (default: %(default)s)")
    parser.add_argument("--llama", type=pair, default=(22, 2048), help="Llama's layers,hidden, offline (default: %(default)s)")
    parser.add_argument("--llama_target", type=pair, default=(28, 3072), help="what it grows to (default: %(default)s)")
    parser.add_argument("--width", default="exact_aki", help="width operator of the offline growth (default: %(default)s)")
    parser.add_argument("--formats", nargs="+", default=["hf", "zero3"], help="what the offline growth writes")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--directory", type=Path, help="where the models are put (default: a temporary directory)")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    quieten()
    torch.set_num_threads(arguments.threads)
    if arguments.work:
        work(arguments.work[0], arguments.work[1:])
        return
    with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
        gpt2, llama = Path(folder) / "gpt2", Path(folder) / "llama"
        if {"copy", "naive"} & set(arguments.parts):
            layers, hidden = arguments.source
            config = GPT2Config(n_layer=layers, n_embd=hidden, n_head=hidden // 64, n_positions=1024)
            write_source(gpt2, config, torch.float32)
        if "copy" in arguments.parts:
            part_copy(gpt2, arguments.target, arguments.repeats)
        if "naive" in arguments.parts:
            part_naive(gpt2, arguments.target, arguments.ranks, min(arguments.repeats, 3))
        if "offline" in arguments.parts:
            layers, hidden = arguments.llama
            config = LlamaConfig(
                vocab_size=32000,
                hidden_size=hidden,
                intermediate_size=hidden * 11 // 4,
                num_hidden_layers=layers,
                num_attention_heads=hidden // 64,
                num_key_value_heads=max(1, hidden // 512),
                max_position_embeddings=2048,
                tie_word_embeddings=False,
            )
            write_source(llama, config, torch.bfloat16)
            part_offline(llama, Path(folder) / "grown", arguments.llama_target, arguments.width, arguments.formats)


if __name__ == "__main__":
    main()
