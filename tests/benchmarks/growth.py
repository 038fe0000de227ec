"""What growth costs beside what a user would do instead, each on identical work: time, and memory of a rank and of all.

python -m tests.benchmarks.growth [--parts whole live copy depth] [--source 24,1024] [--target 36,1280]

whole  a rank's pieces at W = 1, 2, 4 against both models whole in torch
live   an engine's start by growth against the same engine on fresh random weights, at W = 1, 2, 4
copy   launch/grow.py against Hugging Face: load, copy, save (DirectCopy)
depth  launch/grow.py --depth list against mergekit's passthrough, on a Llama; their tensors are compared
"""

import argparse
import json
import math
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file
from transformers import GPT2Config, LlamaConfig, PretrainedConfig
from transformers.initialization import no_init_weights

from pipeline.common.quiet import quieten
from pipeline.families import FAMILIES
from pipeline.growth.huggingface_sink import write_huggingface
from pipeline.growth.state import flat
from pipeline.growth.streaming import CHUNK_ELEMENTS
from tests.benchmarks.live_growth import planned, started
from tests.benchmarks.measuring import MIB, ROOT, Cost, cost_of, in_turn, measured, part_parser, publish, table
from tests.forked import context

RANKS = (1, 2, 4)
LIVE_ROUNDS = 2
"""Of engines that start, six a round, at some ten seconds each."""
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
COPY = Path(__file__).parent / "theirs" / "huggingface_copy.py"
MERGEKIT = ROOT / ".venv-bench" / "bin" / "mergekit-yaml"
COLUMNS = ["", "seconds", "processor seconds", "anonymous MiB, one process", "anonymous MiB, all"]
"""Of several processes the slowest one's seconds and the largest peak, and the sum of their peaks."""
LEFT_OUT = "Memory is anonymous memory alone: mapped files, as a source that is memory-mapped, are left out."


class Drawn:
    """A tensor of random values, drawn anew at each reading."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def rows(self, start: int, stop: int) -> torch.Tensor:
        return torch.empty(stop - start, *self.shape[1:]).uniform_(-0.03, 0.03)


def write_source(directory: Path, config: PretrainedConfig, dtype: torch.dtype) -> None:
    directory.mkdir()
    graph = FAMILIES[config.model_type].graph(config)
    state = {name: Drawn(tensor.shape(graph.sizes)) for name, tensor in graph.tensors().items()}
    write_huggingface(directory, config, state, dtype)


def gpt2(layers: int, hidden: int) -> GPT2Config:
    """Return a GPT-2 of this size, with heads of 64 channels."""
    return GPT2Config(n_layer=layers, n_embd=hidden, n_head=hidden // 64, n_positions=1024, bos_token_id=0, eos_token_id=0)


def llama(layers: int, hidden: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=32000,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 256),
        max_position_embeddings=2048,
        tie_word_embeddings=False,
    )


def both_whole(directory: Path, layers: int, hidden: int) -> dict[str, torch.Tensor]:
    """Return the grown tensors: both Hugging Face models whole, each grown tensor made whole by indexing."""
    source, target, plan = planned(directory, layers, hidden)
    family = source.family
    small = family.model_class.from_pretrained(directory, dtype=torch.float32)
    with no_init_weights():
        large = family.model_class(target)
    large.tie_weights()
    held, written = dict(small.named_parameters()), dict(large.named_parameters())
    with torch.no_grad():
        for name, tensor in plan.tensors.items():
            if name in plan.zero_output_values:
                written[name].zero_()
                continue
            values = held[plan.source_name(tensor)]
            for axis, each in enumerate(plan.index_maps[name]):
                values = values.index_select(axis, each.indices)
                if each.scale is not None:
                    values = values * (each.scale.float() if axis or values.ndim == 1 else each.scale.float()[:, None])
            written[name].copy_(values)
    return {name: parameter.detach() for name, parameter in written.items()}


def pieces(directory: Path, layers: int, hidden: int, ranks: int, rank: int) -> dict[str, torch.Tensor]:
    """Return one rank's pieces of every tensor, in float32, as ZeRO-3 cuts them."""
    source, _, plan = planned(directory, layers, hidden)
    state = plan.grow(source.state)
    sizes = [-(-math.prod(tensor.shape) // ranks) for tensor in state.values()]
    piece, held, place = torch.empty(sum(sizes)), {}, 0
    for (name, tensor), size in zip(state.items(), sizes, strict=True):
        begin, end = min(rank * size, math.prod(tensor.shape)), min((rank + 1) * size, math.prod(tensor.shape))
        for start in range(begin, end, CHUNK_ELEMENTS):
            stop = min(start + CHUNK_ELEMENTS, end)
            piece[place + start - begin : place + stop - begin] = flat(tensor, start, stop)
        held[name] = piece[place : place + end - begin]
        place += size
    return held


def difference(directory: Path, layers: int, hidden: int) -> float:
    """Return by how much an element of the pieces, at any W, differs at most from the model made whole; NaN where one is."""
    whole, found = both_whole(directory, layers, hidden), []
    for ranks in RANKS:
        cuts = [pieces(directory, layers, hidden, ranks, rank) for rank in range(ranks)]
        for name in whole.keys() | cuts[0].keys():
            found.append((torch.cat([cut[name] for cut in cuts]) - whole[name].flatten()).abs().max())
    return torch.stack(found).max().item()


def grow_command(source: Path, out: Path, *options: object) -> list[object]:
    return [sys.executable, "launch/grow.py", "--source", source, "--format", "hf", "--out", out, *options]


def written(out: Path, command: list[object]) -> list[Cost]:
    """Return what a command that writes `out` costs by one thread; removing what an earlier round wrote is left out."""
    shutil.rmtree(out, ignore_errors=True)
    return [cost_of(command, ONE_THREAD)]


def slowest(costs: list[Cost]) -> float:
    return max(cost.seconds for cost in costs)


def row(name: str, rounds: list[list[Cost]]) -> list[object]:
    """Return a line of a table on the fastest round, of which each process's cost is given."""
    costs = min(rounds, key=slowest)
    peaks = [cost.peak / MIB for cost in costs]
    return [name, slowest(costs), max(cost.cpu for cost in costs), max(peaks), sum(peaks)]


def part_whole(arguments: argparse.Namespace, folder: Path) -> None:
    source, target = folder / "gpt2", arguments.target
    works = {"both models whole, in torch": lambda: [measured(both_whole, source, *target)]}
    for ranks in RANKS:
        works[f"ours, W = {ranks}"] = lambda ranks=ranks: [
            measured(pieces, source, *target, ranks, rank) for rank in range(ranks)
        ]
    rows = [row(name, taken) for name, taken in in_turn(works, arguments.rounds).items()]
    # In a process of its own, which gives back the gigabytes that both hold.
    with ProcessPoolExecutor(1, mp_context=context()) as pool:
        apart = pool.submit(difference, source, *target).result()
    alike = "the same, bit for bit" if apart == 0 else f"NOT the same, but apart by up to {apart:.2g}"
    publish(
        arguments.out,
        "Growth against both models whole",
        f"GPT-2 {arguments.source} to {target}, FPI and silent layers, float32, weights alone, one thread; imports left out, "
        f"the fastest of {arguments.rounds} rounds; the ranks of W one after the other, each alone: the slowest rank's time, "
        "the largest peak, and the sum of all peaks. Where both models are whole, each rank that fills its own partition so "
        f"holds them both. The pieces, put together at each W, and the model made whole are {alike}. {LEFT_OUT}",
        table([*COLUMNS, "time / ours, W = 1"], [[*line, line[1] / rows[1][1]] for line in rows]),
    )


def part_live(arguments: argparse.Namespace, folder: Path) -> None:
    """An engine's start by growth against one on fresh random weights."""
    works = {
        f"{name}, W = {ranks}": lambda ranks=ranks, fresh=fresh: started(
            folder / "gpt2_bf16", arguments.target, ranks, fresh=fresh
        )
        for ranks in RANKS
        for name, fresh in (("fresh random weights", True), ("grown", False))
    }
    rounds = min(LIVE_ROUNDS, arguments.rounds)
    rows = [row(name, taken) for name, taken in in_turn(works, rounds).items()]
    publish(
        arguments.out,
        "Growth into live ZeRO-3 partitions",
        f"GPT-2 {arguments.source} in bfloat16 to {arguments.target}: an engine from nothing to its first step, evaluated on "
        "two windows a rank; the grown one beside its source, as for a certificate, without its digest of the source and its "
        "comparison in float64, which one rank makes. The faster of "
        f"{rounds} rounds: the slowest rank's time, the largest peak, and the sum of all peaks. " + LEFT_OUT,
        table(COLUMNS, rows),
    )


def part_copy(arguments: argparse.Namespace, folder: Path) -> None:
    source, out, (layers, hidden) = folder / "gpt2", folder / "grown", arguments.target
    options = ["--target", f"num_hidden_layers={layers},hidden_size={hidden}", "--width", "direct_copy", "--depth", "stack"]
    works = {
        "Hugging Face: load, copy, save": lambda: written(out, [sys.executable, COPY, source, layers, hidden, out]),
        "launch/grow.py": lambda: written(out, grow_command(source, out, *options)),
    }
    costs = in_turn(works, arguments.rounds)
    publish(
        arguments.out,
        "DirectCopy against Hugging Face",
        f"GPT-2 {arguments.source} to {arguments.target}, float32, directory to directory, one thread, imports included, the "
        f"fastest of {arguments.rounds} rounds. Ours also looks for NaN, takes the source's digest, compares both models' "
        "logits in float64 and writes a certificate. " + LEFT_OUT,
        table(COLUMNS, [row(name, taken) for name, taken in costs.items()]),
    )


def part_depth(arguments: argparse.Namespace, folder: Path) -> None:
    heading = "Depth alone against mergekit"
    if not MERGEKIT.is_file():
        publish(arguments.out, heading, f"Not measured: no {MERGEKIT.name} there; `make bench-tools` installs it.")
        return
    source, ours, theirs = folder / "llama", folder / "ours", folder / "theirs"
    layers, hidden = arguments.llama
    origins = [*range(layers), *range(layers)]
    slices = [{"sources": [{"model": str(source), "layer_range": [0, layers]}]}] * 2
    recipe = folder / "passthrough.yaml"
    recipe.write_text(yaml.dump({"slices": slices, "merge_method": "passthrough", "dtype": "bfloat16"}))
    options = ["--target", f"num_hidden_layers={2 * layers}", "--depth", "list", "--layers", json.dumps(origins)]
    works = {
        "mergekit-yaml": lambda: written(theirs, [MERGEKIT, recipe, theirs, "--no-copy-tokenizer"]),
        "launch/grow.py": lambda: written(ours, grow_command(source, ours, *options)),
    }
    costs = in_turn(works, arguments.rounds)
    one, other = ({k: v for path in out.glob("*.safetensors") for k, v in load_file(path).items()} for out in (ours, theirs))
    alike = one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    size = sum(tensor.nbytes for tensor in one.values()) / MIB
    publish(
        arguments.out,
        heading,
        f"Llama ({layers}, {hidden}) to {2 * layers} layers, bfloat16, {size:,.0f} MiB written, one thread, imports included, "
        f"the fastest of {arguments.rounds} rounds; the tensors written are {'' if alike else 'NOT '}the same, bit for bit. "
        "Ours also looks for NaN, takes the source's digest, compares both models' logits in float64 and writes a certificate. "
        + LEFT_OUT,
        table(COLUMNS, [row(name, taken) for name, taken in costs.items()]),
    )


def pair(text: str) -> tuple[int, int]:
    layers, hidden = text.split(",")
    return int(layers), int(hidden)


def main() -> None:
    parts = {"whole": part_whole, "live": part_live, "copy": part_copy, "depth": part_depth}
    parser = part_parser(__doc__.splitlines()[0], list(parts))
    parser.add_argument("--source", type=pair, default=(24, 1024), help="GPT-2's layers,hidden (default: %(default)s)")
    parser.add_argument("--target", type=pair, default=(36, 1280), help="what it grows to (default: %(default)s)")
    arguments = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    arguments.llama, arguments.rounds = (16, 1024), 3
    if arguments.quick:
        arguments.source, arguments.target, arguments.llama, arguments.rounds = (2, 128), (4, 256), (2, 256), 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_source(folder / "gpt2", gpt2(*arguments.source), torch.float32)
        write_source(folder / "gpt2_bf16", gpt2(*arguments.source), torch.bfloat16)
        write_source(folder / "llama", llama(*arguments.llama), torch.bfloat16)
        for part in arguments.parts:
            parts[part](arguments, folder)


if __name__ == "__main__":
    main()
