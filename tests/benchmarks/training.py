"""What a training step costs, as ratios within one run; in CPU time, which a busy machine changes least, where not said.

python -m tests.benchmarks.training [--parts sections depths layers loop]

sections  the time of a step of each sub-model relative to a full step, against what its FLOPs say; fp32 and bf16, one process
depths    two ranks of ZeRO-3: steps of one drawn depth each against the same steps in the order of their depths, so that the
          depth hardly changes; with DeepSpeed's trace of modules left to itself, and with one kept for each depth
layers    a full step with activation checkpointing, and with torch.compile, against one without: time, and memory
loop      a full step of our loop against one of a bare DeepSpeed loop on the same batches, and against one of Hugging Face's
          Trainer with the same DeepSpeed JSON, one of each in turn
"""

import argparse
import itertools
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
import transformers
from transformers import PretrainedConfig

from pipeline import keyed
from pipeline.data.batches import Batches, Corpus, rank_samples
from pipeline.data.examples import WindowExamples
from pipeline.data.objectives import IGNORED, CausalObjective
from pipeline.data.windows import Windows
from pipeline.families import FAMILIES, Section, scratch_config, sizes_of
from pipeline.flops.counts import training_step
from pipeline.growth.initialization import initialized
from pipeline.recipe import ModelConfig, OptimizerConfig, Recipe, TrainStage
from pipeline.runs import JsonLines
from pipeline.training import distributed
from pipeline.training.blocks import cut
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.engine import TrainedModel, build
from pipeline.training.loop import Position, Records, Trainer
from pipeline.training.losses import summed_loss
from pipeline.training.monitors import Monitors
from pipeline.training.progress import Progress
from pipeline.training.running import draw_depths, running, scoring
from pipeline.training.signals import StopRequest
from pipeline.training.tasks import Tasks
from pipeline.training.timeline import lay_out
from pipeline.training.utilization import Utilization
from pipeline.training.watchdog import Watchdog
from pipeline.training.workload import Workload
from tests.benchmarks.memory import Watched
from tests.ranks import run_ranks
from tests.shards import MemoryShard

LAYERS, PER_BLOCK, VOCABULARY = 12, 3, 8000
PRECISIONS = {"fp32": {}, "bf16": {"bf16": {"enabled": True}}}
CLOCKS = ("CPU", "wall")
DRAWN_STEPS = 12
WAYS = tuple(itertools.product(("one for each way", "DeepSpeed's own"), ("sorted", "drawn")))
"""Whose traces of modules, and in what order the depths come."""


def model(
    family_name: str, hidden: int, length: int, sequences: int, stage: int, precision: str = "fp32", **how: bool
) -> TrainedModel:
    """Return a model of 12 layers in its engine, which takes one micro-batch a step."""
    family = FAMILIES[family_name]
    described = ModelConfig(family=family_name, hidden_size=hidden, num_hidden_layers=LAYERS, num_attention_heads=hidden // 64)
    config = scratch_config(described, VOCABULARY, 0, length)
    ds_config = json_of(sequences, stage) | PRECISIONS[precision]
    blocks = cut(LAYERS, [TrainStage(name="submodels", submodel_layers=PER_BLOCK, steps=1)])
    return build(family, config, initialized(family, config, 1), ds_config, OptimizerConfig(), blocks, "sdpa", **how)


def json_of(sequences: int, stage: int) -> dict[str, object]:
    """Return DeepSpeed's JSON for one micro-batch a step."""
    return {
        "train_batch_size": sequences * distributed.world_size(),
        "train_micro_batch_size_per_gpu": sequences,
        "gradient_clipping": 1.0,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage},
        "steps_per_print": 1 << 40,
    }


def batch(trained: TrainedModel, length: int, sequences: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and labels that say nothing; a masked model scores 15 % of them."""
    drawn = keyed.below(("batch", distributed.rank()), 0, 2 * sequences * length, VOCABULARY)
    ids, labels = torch.from_numpy(drawn).reshape(2, sequences, length)
    if trained.family.objective == "mlm":
        unscored = torch.from_numpy(keyed.uniform(("scored",), 0, labels.numel())).reshape(labels.shape) > 0.15
        labels = labels.masked_fill(unscored, IGNORED)
    return ids, labels


def step(trained: TrainedModel, section: Section, ids: torch.Tensor, labels: torch.Tensor) -> float:
    """Take one step, as the loop does; return the CPU seconds of this rank."""
    began = time.process_time()
    trained.learn(section)
    with running(trained.module, trained.family, section), scoring(trained.module, trained.family, labels) as targets:
        loss = summed_loss(trained.logits(ids).tokens, targets)
    trained.engine.backward(loss / len(labels.flatten()))
    trained.engine.step()
    return time.process_time() - began


def in_turns(ways: Sequence[Callable[[], float]], rounds: int) -> list[float]:
    """Return the median of each one's seconds over the first one's, all in each round; the first round is dropped.

    In turns, so that a busy machine slows all alike.
    """
    seconds = [[way() for way in ways] for _ in range(rounds + 1)][1:]
    return [
        statistics.median(each / first for each, first in zip(column, next(zip(*seconds, strict=True)), strict=True))
        for column in zip(*seconds, strict=True)
    ]


# --- sections -------------------------------------------------------------------------------------


def sections() -> None:
    """Print the time of each sub-model's step against what its FLOPs say."""
    print("| family | precision | depth | time / full | FLOPs / full | time / FLOPs |\n" + "|---" * 6 + "|", flush=True)
    for family, precision in itertools.product(("gpt2", "bert"), PRECISIONS):
        for row in run_ranks(section_times, 1, family, precision, timeout=1800)[0]:
            print(row, flush=True)


def section_times(family_name: str, precision: str) -> list[str]:
    """Return the rows of one model."""
    length, sequences = 128, 16
    trained = model(family_name, 384, length, sequences, 1, precision)
    ids, labels = batch(trained, length, sequences)
    ways = [Section.whole(LAYERS), *(Section.top(depth, PER_BLOCK) for depth in range(PER_BLOCK, LAYERS + 1, PER_BLOCK))]
    _, *times = in_turns([lambda section=section: step(trained, section, ids, labels) for section in ways], 11)
    whole, *flops = (
        training_step(
            trained.family,
            sizes_of(trained.config),
            length,
            ids.numel(),
            scored=int((labels != IGNORED).sum()),
            section=section,
        ).executed_total
        for section in ways
    )
    rows = [(str(section.depth), taken, count / whole) for section, taken, count in zip(ways[1:], times, flops, strict=True)]
    # Each depth is drawn as often as the others.
    rows.append(("drawn", statistics.mean(times), statistics.mean(flops) / whole))
    return [
        f"| {family_name} | {precision} | {depth} | {taken:.3f} | {share:.3f} | {taken / share:.2f} |"
        for depth, taken, share in rows
    ]


# --- changing depths under ZeRO-3 -----------------------------------------------------------------


def depths() -> None:
    """Print what changing the depth costs."""
    taken = run_ranks(depth_times, 2, timeout=1800)
    print("| depths | traces | clock | s a step | against sorted, one for each way: median | quartiles |\n" + "|---" * 6 + "|")
    for clock in CLOCKS:
        # Of both ranks together: what one waits for, the other does.
        by_round = zip(*(rank[clock] for rank in taken), strict=True)
        rounds = [[sum(seconds) for seconds in zip(*ranks, strict=True)] for ranks in by_round]
        for way, (whose, order) in enumerate(WAYS):
            print(f"| {order} | {whose} | {clock} | {compared(rounds, way, 0, 2 * DRAWN_STEPS)} |", flush=True)


def depth_times() -> dict[str, list[list[float]]]:
    """Return by clock and round the seconds of each way: one engine each takes the same steps, one in turn."""
    length, sequences, rounds = 128, 2, 12
    drawn = draw_depths(LAYERS, PER_BLOCK, (1, "benchmark"), 0, DRAWN_STEPS).tolist()
    engines = []
    for whose, _ in WAYS:
        with nullcontext() if whose == "one for each way" else patch("pipeline.training.engine.TraceCache"):
            engines.append(model("gpt2", 256, length, sequences, 3))
    ids, labels = batch(engines[0], length, sequences)
    taken: dict[str, list[list[float]]] = {clock: [] for clock in CLOCKS}
    for turn in range(rounds + 1):
        seconds = {clock: [0.0] * len(WAYS) for clock in CLOCKS}
        for number in range(DRAWN_STEPS):
            # There and back: whoever comes after another finds its caches.
            for way in sorted(range(len(WAYS)), reverse=(turn + number) % 2 == 1):
                depth = (sorted(drawn) if WAYS[way][1] == "sorted" else drawn)[number]
                torch.distributed.barrier()
                began = time.perf_counter()
                seconds["CPU"][way] += step(engines[way], Section.top(depth, PER_BLOCK), ids, labels)
                seconds["wall"][way] += time.perf_counter() - began
        for clock, rows in taken.items():
            rows.append(seconds[clock])
    return {clock: rows[1:] for clock, rows in taken.items()}


def compared(rounds: Sequence[Sequence[float]], way: int, base: int, steps: int) -> str:
    """Return the columns: the median seconds a step of a way, and against the base's in the same round median and quartiles."""
    low, middle, high = statistics.quantiles([seconds[way] / seconds[base] - 1 for seconds in rounds], n=4)
    each = statistics.median(seconds[way] for seconds in rounds) / steps
    return f"{each:.4f} | {middle:+.1%} | {low:+.1%} to {high:+.1%}"


# --- how layers run -------------------------------------------------------------------------------


def layers() -> None:
    """Print what checkpointing and compiling change."""
    print("| family | ZeRO | layers | time / plain | peak MiB above the engine |\n" + "|---" * 5 + "|", flush=True)
    for family, stage in itertools.product(("gpt2", "bert"), (1, 3)):
        for how in ({}, {"activation_checkpointing": True}, {"compile": True}):
            print(run_ranks(layer_times, 1, family, stage, how, timeout=1800)[0], flush=True)


def layer_times(family_name: str, stage: int, how: dict[str, bool]) -> str:
    """Return the row of one model: a plain one beside it tells the machine's speed."""
    length, sequences = 256, 8
    plain, other = model(family_name, 256, length, sequences, stage), model(family_name, 256, length, sequences, stage, **how)
    ids, labels = batch(plain, length, sequences)
    whole = Section.whole(LAYERS)
    step(other, whole, ids, labels)
    with Watched() as watched:
        step(other, whole, ids, labels)
    times = in_turns([lambda trained=trained: step(trained, whole, ids, labels) for trained in (plain, other)], 3)
    named = next(iter(how), "plain")
    return f"| {family_name} | {stage} | {named} | {times[1]:.2f} | {watched.peak / 2**20:,.0f} |"


# --- our loop, a bare one, and the Hugging Face Trainer -------------------------------------------


def loop() -> None:
    """Print the time of a full step by each loop."""
    print("| loop | s a step | against bare: median | quartiles |\n" + "|---" * 4 + "|", flush=True)
    for row in run_ranks(loop_times, 1, timeout=1800)[0]:
        print(row, flush=True)


def loop_times() -> list[str]:
    """Return the rows: each loop takes a step in turn."""
    length, sequences, steps = 128, 4, 64
    ours, bare = (model("gpt2", 256, length, sequences, 2) for _ in range(2))
    objective = CausalObjective(length)
    text = MemoryShard(keyed.below(("text",), 0, 2 * steps * sequences * length + 1, VOCABULARY))
    batches = Batches([Corpus("text", 1.0, WindowExamples(Windows([text], *objective.window), objective, apart=False))], 1)
    micro_batches = (
        batches.training(samples)
        for number in itertools.count()
        for samples in rank_samples(
            number * sequences * distributed.world_size(),
            sequences * distributed.world_size(),
            sequences,
            distributed.rank(),
            distributed.world_size(),
        )
    )

    def bare_step() -> None:
        batch = next(micro_batches)
        logits = bare.engine(input_ids=batch.input_ids, use_cache=False).logits
        bare.engine.backward(torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten()))
        bare.engine.step()

    with tempfile.TemporaryDirectory() as directory:
        our_step = the_loop(ours, batches, length, sequences, 2 * steps, Path(directory))
        seconds: dict[str, list[float]] = {"bare": [], "ours": [], "Trainer": []}

        def others() -> None:
            for name, take in (("bare", bare_step), ("ours", our_step)):
                began = time.process_time()
                take()
                seconds[name].append(time.process_time() - began)

        hugging_face(bare.config, length, sequences, steps, Path(directory), seconds["Trainer"], others)
    steps_taken = list(zip(*seconds.values(), strict=True))[4:]
    return [f"| {name} | {compared(steps_taken, way, 0, 1)} |" for way, name in enumerate(seconds)]


def the_loop(
    trained: TrainedModel, batches: Batches, length: int, sequences: int, steps: int, directory: Path
) -> Callable[[], object]:
    """Return what takes the next step of our loop over `steps` steps."""
    batch_size = sequences * distributed.world_size()
    sizes = {"family": "gpt2", "hidden_size": 256, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    recipe = Recipe(
        run_dir=str(directory),
        data={"shards": "unused", "sequence_length": length},
        source={"model": sizes, "steps": steps},
        target={"hidden_size": 256},
        stages=[{"name": "unused", "steps": 1}],
    )
    configs = {0: trained.config, 1: trained.config}
    batch = {"train_batch_size": batch_size, "train_micro_batch_size_per_gpu": sequences}
    timeline = lay_out(recipe, configs, lambda _: len(batches), batch, distributed.world_size())
    records = Records(
        JsonLines(directory / "metrics.jsonl"),
        JsonLines(directory / "eval.jsonl"),
        JsonLines(directory / "scores.jsonl"),
        Checkpoints(directory / "checkpoints", recipe.checkpointing),
        Progress(Workload(recipe, timeline, configs.__getitem__), 0, shown=distributed.rank() == 0),
        Utilization.measured(torch.float32, given_tflops=1.0),
        Monitors.opened({}, directory, 0),
        Watchdog(1800),
    )
    streams = SimpleNamespace(training=lambda _: batches, heldout=batches)
    trainer = Trainer(0, trained, timeline, recipe, streams, Position(), Tasks(recipe, None), records, StopRequest())
    (leg,) = timeline.of_phase(0)
    return lambda: trainer._step(leg)


def hugging_face(
    config: PretrainedConfig,
    length: int,
    sequences: int,
    steps: int,
    directory: Path,
    seconds: list[float],
    between: Callable[[], None],
) -> None:
    """Train the same model by transformers' Trainer under the same DeepSpeed JSON; `between` runs between its steps."""
    ids = torch.from_numpy(keyed.below(("trainer",), 0, 4096 * length, VOCABULARY)).reshape(-1, length)
    dataset = [{"input_ids": row, "labels": row} for row in ids]
    arguments = transformers.TrainingArguments(
        output_dir=str(directory / "trainer"),
        per_device_train_batch_size=sequences,
        max_steps=steps,
        deepspeed=json_of(sequences, 2),
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_steps=10,
        disable_tqdm=True,
    )

    class Between(transformers.TrainerCallback):
        def on_step_begin(self, *_: object, **__: object) -> None:
            # What Trainer does between two steps, its loading among it, counts; what it did before the first does not.
            self.began = getattr(self, "ended", time.process_time())

        def on_step_end(self, *_: object, **__: object) -> None:
            seconds.append(time.process_time() - self.began)
            between()
            self.ended = time.process_time()

    model = transformers.AutoModelForCausalLM.from_config(config)
    model.config.use_cache = False
    transformers.Trainer(model, arguments, train_dataset=dataset, callbacks=[Between()]).train()


def main() -> None:
    """Run the parts that were asked for."""
    parts = {"sections": sections, "depths": depths, "layers": layers, "loop": loop}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    for part in arguments.parts:
        parts[part]()


if __name__ == "__main__":
    main()
