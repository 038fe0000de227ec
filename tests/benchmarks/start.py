"""From the command to the end of the first step: a bare DeepSpeed script, and launch/pretrain.py, as ratios within one run.

python -m tests.benchmarks.start [--quick]
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil
import torch
import yaml
from transformers import GPT2Config, GPT2LMHeadModel

from data_prep.manifest import PreparedData
from data_prep.prepare import prepare
from data_prep.settings import CorpusConfig, DataPrepConfig, TokenizerConfig
from data_prep.shards import bin_path
from tests.benchmarks.measuring import in_turn, part_parser, process_group, publish, table, zero_json
from tests.data_prep.prose import made_up_texts
from tests.ranks import environments

BARE = Path(__file__).parent / "theirs" / "bare_deepspeed.py"
CLOCKS = ("CPU", "wall")
LENGTH, SEQUENCES = 128, 4
_LIMIT = 600
"""Seconds that a first step may take."""


@dataclass(frozen=True)
class Case:
    """A growth, and how it is trained on."""

    source: tuple[int, int]
    """Layers and hidden size."""
    target: tuple[int, int]
    vocabulary: int
    stage: int
    ranks: int

    @property
    def words(self) -> str:
        sizes = " to ".join(f"{{{layers}, {hidden}}}" for layers, hidden in (self.source, self.target))
        return f"{sizes}, ZeRO {self.stage}, {self.ranks} rank{'s' * (self.ranks > 1)}"


_SMALL, _LARGE = ((6, 128), (12, 256), 8000), ((6, 384), (12, 768), 50257)
FULL = [Case(*_SMALL, 3, 1), Case(*_SMALL, 1, 1), Case(*_SMALL, 3, 2), Case(*_LARGE, 3, 1), Case(*_LARGE, 3, 2)]
QUICK = [Case((2, 64), (4, 128), 500, 3, 1), Case((2, 64), (4, 128), 500, 1, 2)]


def start(cases: Sequence[Case], rounds: int, out: Path | None) -> None:
    """Publish the time from starting a command to the end of its first step."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        prepared = prepared_text(Path(name))
        for number, case in enumerate(cases):
            place = Path(name) / str(number)
            taken = first_steps(case, place, prepared, rounds)
            for (who, each), (index, clock) in itertools.product(taken.items(), enumerate(CLOCKS)):
                mine, theirs = ([seconds[index] for seconds in turns] for turns in (each, taken["bare"]))
                ratio = statistics.median(one / other for one, other in zip(mine, theirs, strict=True))
                rows.append([f"{case.words}: {who}, {clock}", statistics.median(mine), ratio])
    publish(
        out,
        "From the command to the first step",
        f"Until the first step of a GPT-2 {{layers, hidden size}} is over, {SEQUENCES} x {LENGTH} tokens a rank, with the same "
        "DeepSpeed JSON (bf16, clipping), every process started directly, the first round dropped: a bare DeepSpeed script, "
        "from_pretrained of a saved model of the target's size and a batch of the prepared ids; and launch/pretrain.py on the "
        "prepared shards, which grows a saved source into that size, with its checks and its first evaluation, of one window.",
        table(["", "s", "times the bare script's"], rows),
    )


def prepared_text(place: Path) -> PreparedData:
    text = place / "text.txt"
    text.write_text("\n\n".join(" ".join(each.split()) for each in made_up_texts(200)), encoding="utf-8")
    corpus = CorpusConfig(files=[str(text)], heldout_fraction=0.3)
    tokenizer = TokenizerConfig(vocab_size=400, algorithm="byte_level_bpe", family="gpt2")
    return prepare(DataPrepConfig(output_dir=str(place / "data"), corpora=[corpus], tokenizer=tokenizer))


def first_steps(case: Case, place: Path, prepared: PreparedData, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return the CPU and the clock's seconds of each round's first steps."""
    place.mkdir()
    for name, (layers, hidden) in (("source", case.source), ("target", case.target)):
        heads = max(2, hidden // 64)
        config = GPT2Config(n_embd=hidden, n_layer=layers, n_head=heads, n_positions=LENGTH, vocab_size=case.vocabulary)
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(place / name)
    prepared.tokenizer.write(place / "source")
    ds_config = place / "ds_config.json"
    ds_config.write_text(json.dumps(zero_json(case.stage, SEQUENCES, case.ranks, half=True)))
    recipe = {
        "run_dir": "given on the command line",
        "train_batch_size": SEQUENCES * case.ranks,
        "data": {"shards": str(prepared.directory), "sequence_length": LENGTH},
        "source": {"path": str(place / "source")},
        "target": {"num_hidden_layers": case.target[0], "hidden_size": case.target[1]},
        "stages": [{"name": "full", "steps": 1000}],
        "evaluation": {"windows": 1},
    }
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (corpus,) = prepared.corpora
    ids = bin_path(prepared.directory / corpus.splits["train"].shards[0].prefix)
    numbers = itertools.count()

    def ours() -> tuple[float, float]:
        run_dir = place / f"run{next(numbers)}"
        words = ["launch/pretrain.py", "--ds_config", ds_config, "--recipe", place / "recipe.yaml", f"run_dir={run_dir}"]
        return until(words, case.ranks, run_dir / "metrics.jsonl")

    def bare() -> tuple[float, float]:
        output = place / f"bare{next(numbers)}"
        return until([BARE, place / "target", ids, LENGTH, SEQUENCES, ds_config, output], case.ranks, output)

    # The first round reads everything from disk.
    return {name: each[1:] for name, each in in_turn({"bare": bare, "ours": ours}, rounds + 1).items()}


def until(words: Sequence[object], ranks: int, output: Path) -> tuple[float, float]:
    """Return the CPU and the clock's seconds until the ranks of a Python program have a line in `output`; they are ended there.

    Raises RuntimeError where one ends before, or after ten minutes.
    """
    began = time.perf_counter()
    with started(words, ranks) as processes:
        while not output.exists() or not output.read_text(encoding="utf-8"):
            ended = [process for process, _ in processes if process.poll() is not None]
            if ended or time.perf_counter() - began > _LIMIT:
                said = "".join(Path(said.name).read_text(encoding="utf-8", errors="replace")[-2000:] for _, said in processes)
                raise RuntimeError(f"{words}: no first step\n{said}")
            time.sleep(0.01)
        seconds = time.perf_counter() - began
        times = [psutil.Process(process.pid).cpu_times() for process, _ in processes]
        return sum(each.user + each.system for each in times), seconds


@contextmanager
def started(words: Sequence[object], ranks: int) -> Iterator[list[tuple[subprocess.Popen, IO[bytes]]]]:
    """Start each rank of a Python program, as a launcher would; behind the block they are gone. Yields what each says, too."""
    # Launchers give each rank on a CPU its share of the cores.
    common = {"LOCAL_SIZE": str(ranks), "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // ranks))}
    # Python keeps what it compiled of a package from one start to the next unless it is told not to.
    common["PYTHONDONTWRITEBYTECODE"] = ""
    with ExitStack() as stack:
        processes = []
        for output in environments(ranks):
            said = stack.enter_context(tempfile.NamedTemporaryFile())
            process = stack.enter_context(process_group([sys.executable, *words], output | common, said))
            processes.append((process, said))
        yield processes


def main() -> None:
    arguments = part_parser(__doc__.splitlines()[0]).parse_args()
    start(QUICK if arguments.quick else FULL, 1 if arguments.quick else 5, arguments.out)


if __name__ == "__main__":
    main()
