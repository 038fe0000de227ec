"""What growth costs beside what a user would do instead, each on identical work: time, and memory of a rank and of all.

python -m tests.benchmarks.growth [--parts whole live copy depth bytes] [--source 24,1024] [--target 36,1280]

whole  a rank's pieces at W = 1, 2, 4 against both models whole in torch
live   an engine's start by growth against the same engine on fresh random weights, at W = 1, 2, 4
copy   launch/grow.py against Hugging Face: load, copy, save (DirectCopy)
depth  launch/grow.py --depth list against mergekit's passthrough, on a Llama; their tensors are compared
bytes  computing a grown state against copying as many bytes
"""

import argparse
import json
import math
import shutil
import sys
import tempfile
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig

from pipeline.command import quieten
from pipeline.families import FAMILIES, sizes_of, target_config
from pipeline.growth.huggingface import open_huggingface
from pipeline.growth.huggingface_sink import write_huggingface
from pipeline.growth.plan import GrowthPlan, plan_growth
from pipeline.growth.probe import elements
from pipeline.growth.state import Source, State, flat
from pipeline.growth.streaming import CHUNK_ELEMENTS, row_chunks
from pipeline.recipe import GrowthConfig, TargetConfig
from tests.benchmarks.live_growth import started
from tests.benchmarks.measuring import MIB, ROOT, Cost, cost_of, in_turn, measured, part_parser, publish, table

PARTS = ("whole", "live", "copy", "depth", "bytes")
RANKS = (1, 2, 4)
MERGEKIT = ROOT / ".venv-bench" / "bin" / "mergekit-yaml"
COLUMNS = ["", "seconds", "processor seconds", "MiB, one process", "MiB, all"]


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


def gpt2(layers: int, hidden: int) -> GPT2Config:
    """Return a GPT-2 of this size, with heads of 64 channels."""
    return GPT2Config(n_layer=layers, n_embd=hidden, n_head=hidden // 64, n_positions=1024, bos_token_id=0, eos_token_id=0)


def llama(layers: int, hidden: int) -> LlamaConfig:
    """Return a Llama of this size."""
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


def planned(directory: Path, layers: int, hidden: int) -> tuple[Source, PretrainedConfig, GrowthPlan]:
    """Return the source in `directory` and its growth by FPI and silent layers, without noise."""
    source = open_huggingface(directory)
    target = target_config(source.config, TargetConfig(hidden_size=hidden, num_hidden_layers=layers))
    return source, target, plan_growth(source.config, target, GrowthConfig(width="fpi", depth="last_layer"), 0)


def both_whole(directory: Path, layers: int, hidden: int) -> None:
    """Both Hugging Face models whole, each grown tensor made whole by indexing."""
    source, target, plan = planned(directory, layers, hidden)
    family = source.family
    small = family.model_class.from_pretrained(directory, dtype=torch.float32)
    large = family.model_class(target)
    held, written = dict(small.named_parameters()), dict(large.named_parameters())
    with torch.no_grad():
        for name, (spec, layer) in plan.specs.items():
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


def pieces(directory: Path, layers: int, hidden: int, ranks: int, rank: int) -> None:
    """One rank's pieces of every tensor, in float32, as ZeRO-3 cuts them."""
    source, _, plan = planned(directory, layers, hidden)
    state = plan.grow(source.state)
    sizes = [-(-math.prod(tensor.shape) // ranks) for tensor in state.values()]
    piece, place = torch.empty(sum(sizes)), 0
    for tensor, size in zip(state.values(), sizes, strict=True):
        begin, end = min(rank * size, math.prod(tensor.shape)), min((rank + 1) * size, math.prod(tensor.shape))
        for start in range(begin, end, CHUNK_ELEMENTS):
            stop = min(start + CHUNK_ELEMENTS, end)
            piece[place + start - begin : place + stop - begin] = flat(tensor, start, stop)
        place += size


def load_and_copy(directory: Path, layers: int, hidden: int, out: Path) -> None:
    """DirectCopy as one would write it: load, make the larger model, copy the corner of each tensor, save."""
    small = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    config = AutoConfig.from_pretrained(directory)
    config.n_layer, config.n_embd, config.n_head, config.n_inner = layers, hidden, hidden // 64, None
    large = AutoModelForCausalLM.from_config(config)
    held = dict(small.named_parameters())
    with torch.no_grad():
        for name, parameter in large.named_parameters():
            words = name.split(".")
            if words[1] == "h":
                words[2] = str(int(words[2]) % small.config.n_layer)
            values = held[".".join(words)]
            if name.endswith(("c_attn.weight", "c_attn.bias")):
                # Query, key and value lie side by side.
                for new, old in zip(parameter.chunk(3, -1), values.chunk(3, -1), strict=True):
                    new[tuple(map(slice, old.shape))] = old
            else:
                parameter[tuple(map(slice, values.shape))] = values
    large.save_pretrained(out)
    shutil.rmtree(out)


def grow_command(source: Path, out: Path, *options: object) -> list[object]:
    """Return the command that writes a Hugging Face directory."""
    return [sys.executable, "launch/grow.py", "--source", source, "--format", "hf", "--out", out, *options]


def without(out: Path, cost: Cost) -> Cost:
    """Remove what a command wrote; return its cost."""
    shutil.rmtree(out)
    return cost


def row(name: str, costs: list[Cost], processes: int = 1) -> list[object]:
    """Return a line of a table: the fastest round's figures; `costs` are of one of the processes."""
    cost = min(costs, key=lambda cost: cost.seconds)
    return [name, cost.seconds, cost.cpu, cost.peak / MIB, cost.peak * processes / MIB]


def part_whole(arguments: argparse.Namespace, folder: Path) -> None:
    """Growth by pieces against both models whole."""
    source, target = folder / "gpt2", arguments.target
    works = {"both models whole, in torch": lambda: measured(both_whole, source, *target)}
    for ranks in RANKS:
        works[f"ours, one of {ranks}"] = lambda ranks=ranks: measured(pieces, source, *target, ranks, ranks - 1)
    costs = in_turn(works, arguments.rounds)
    rows = [row(name, taken, int(name.split()[-1]) if name.startswith("ours") else 1) for name, taken in costs.items()]
    publish(
        arguments.out,
        "Growth against both models whole",
        f"GPT-2 {arguments.source} to {target}, FPI and silent layers, float32, weights alone, one thread; each rank alone in "
        f"turn, imports left out, the fastest of {arguments.rounds} rounds. All ranks together hold W times one's, and where "
        "both models are whole each rank that fills its own partition so holds them all.",
        table([*COLUMNS, "time / ours, one of 1"], [[*line, line[1] / rows[1][1]] for line in rows]),
    )


def part_live(arguments: argparse.Namespace, folder: Path) -> None:
    """An engine's start by growth against one on fresh random weights."""
    rows = []
    for ranks in RANKS:
        for name, fresh in (("fresh random weights", True), ("grown", False)):
            of_ranks = started(folder / "gpt2_bf16", arguments.target, ranks, fresh=fresh)
            mib = [start.mib for start in of_ranks]
            slowest = max(start.seconds for start in of_ranks)
            rows.append([f"{name}, W = {ranks}", slowest, max(start.cpu for start in of_ranks), max(mib), sum(mib)])
    publish(
        arguments.out,
        "Growth into live ZeRO-3 partitions",
        f"GPT-2 {arguments.source} in bfloat16 to {arguments.target}: an engine from nothing to its first step, evaluated on "
        "two windows a rank; the grown one beside its source, as a certificate has it. The slowest rank, largest peak.",
        table(COLUMNS, rows),
    )


def part_copy(arguments: argparse.Namespace, folder: Path) -> None:
    """launch/grow.py against loading, copying and saving."""
    source, out, (layers, hidden) = folder / "gpt2", folder / "grown", arguments.target
    options = ["--target", f"num_hidden_layers={layers},hidden_size={hidden}", "--width", "direct_copy", "--depth", "stack"]
    works = {
        "Hugging Face: load, copy, save": lambda: cost_of(
            [sys.executable, "-m", "tests.benchmarks.growth", "--load_and_copy", source, layers, hidden, out]
        ),
        "launch/grow.py": lambda: without(out, cost_of(grow_command(source, out, *options))),
    }
    costs = in_turn(works, arguments.rounds)
    publish(
        arguments.out,
        "DirectCopy against Hugging Face",
        f"GPT-2 {arguments.source} to {arguments.target}, float32, directory to directory, imports included, the fastest of "
        f"{arguments.rounds} rounds. Ours also looks for NaN, takes the source's digest, compares both models' logits in "
        "float64 and writes a certificate.",
        table(COLUMNS, [row(name, taken) for name, taken in costs.items()]),
    )


def part_depth(arguments: argparse.Namespace, folder: Path) -> None:
    """launch/grow.py --depth list against mergekit's passthrough."""
    heading = "Depth alone against mergekit"
    if not arguments.mergekit.is_file():
        publish(arguments.out, heading, f"Not measured: no {arguments.mergekit.name} there; `make bench-tools` installs it.")
        return
    source, ours, theirs = folder / "llama", folder / "ours", folder / "theirs"
    layers, hidden = arguments.llama
    origins = [*range(layers), *range(layers)]
    slices = [{"sources": [{"model": str(source), "layer_range": [0, layers]}]}] * 2
    recipe = folder / "passthrough.yaml"
    recipe.write_text(yaml.dump({"slices": slices, "merge_method": "passthrough", "dtype": "bfloat16"}))
    options = ["--target", f"num_hidden_layers={2 * layers}", "--depth", "list", "--layers", json.dumps(origins)]
    works = {
        "mergekit-yaml": lambda: cost_of([arguments.mergekit, recipe, theirs, "--no-copy-tokenizer"]),
        "launch/grow.py": lambda: cost_of(grow_command(source, ours, *options)),
    }
    costs: dict[str, list[Cost]] = {name: [] for name in works}
    for _ in range(arguments.rounds):
        for out in (ours, theirs):
            shutil.rmtree(out, ignore_errors=True)
        for name, taken in in_turn(works, 1).items():
            costs[name] += taken
    written = [{k: v for path in out.glob("*.safetensors") for k, v in load_file(path).items()} for out in (ours, theirs)]
    alike = written[0].keys() == written[1].keys() and all(torch.equal(v, written[1][k]) for k, v in written[0].items())
    size = sum(tensor.nbytes for tensor in written[0].values()) / MIB
    publish(
        arguments.out,
        heading,
        f"Llama ({layers}, {hidden}) to {2 * layers} layers, bfloat16, {size:,.0f} MiB written, imports included, the fastest "
        f"of {arguments.rounds} rounds; the tensors written are {'the same, bit for bit' if alike else 'NOT the same'}. Ours "
        "also looks for NaN, takes the source's digest, compares both models' logits in float64 and writes a certificate.",
        table(COLUMNS, [row(name, taken) for name, taken in costs.items()]),
    )


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


def part_bytes(arguments: argparse.Namespace, folder: Path) -> None:
    """Growth over a plain copy of as many bytes."""
    opened, _, plan = planned(folder / "gpt2", *arguments.target)
    state = plan.grow(opened.state)
    largest = max(opened.state.values(), key=lambda tensor: math.prod(tensor.shape))
    origin = largest.rows(0, largest.shape[0]).reshape(-1)
    compute(state)  # pages come in from disk, and torch warms up
    taken = in_turn({"grown": lambda: compute(state), "copied": lambda: copy_as_much(state, origin)}, arguments.rounds + 2)
    grown, copied = min(taken["grown"]), min(taken["copied"])
    publish(
        arguments.out,
        "Growth against copying bytes",
        f"{elements(state) * 4 / MIB:,.0f} MiB of float32 in memory, chunk by chunk, one thread, the fastest of "
        f"{arguments.rounds + 2} rounds.",
        table(["", "seconds", "/ copied"], [["grown", grown, grown / copied], ["copied", copied, 1.0]]),
    )


def pair(text: str) -> tuple[int, int]:
    """Read LAYERS,HIDDEN."""
    layers, hidden = text.split(",")
    return int(layers), int(hidden)


def main() -> None:
    """Run the parts that are asked for."""
    parser = part_parser(__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--source", type=pair, default=(24, 1024), help="GPT-2's layers,hidden (default: %(default)s)")
    parser.add_argument("--target", type=pair, default=(36, 1280), help="what it grows to (default: %(default)s)")
    parser.add_argument("--llama", type=pair, default=(16, 1024), help="Llama's layers,hidden (default: %(default)s)")
    parser.add_argument("--mergekit", type=Path, default=MERGEKIT, help="its mergekit-yaml (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--load_and_copy", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    if arguments.load_and_copy:
        source, layers, hidden, out = arguments.load_and_copy
        load_and_copy(Path(source), int(layers), int(hidden), Path(out))
        return
    if arguments.quick:
        arguments.source, arguments.target, arguments.llama, arguments.rounds = (2, 128), (4, 256), (2, 256), 1
    parts = {"whole": part_whole, "live": part_live, "copy": part_copy, "depth": part_depth, "bytes": part_bytes}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_source(folder / "gpt2", gpt2(*arguments.source), torch.float32)
        write_source(folder / "gpt2_bf16", gpt2(*arguments.source), torch.bfloat16)
        write_source(folder / "llama", llama(*arguments.llama), torch.bfloat16)
        for part in arguments.parts:
            parts[part](arguments, folder)


if __name__ == "__main__":
    main()
