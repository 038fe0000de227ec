"""What a training step costs, as ratios within one run; in CPU time, which a busy machine changes least, where not said.

python -m tests.benchmarks.training [--parts loop sections depths]
"""

import itertools
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import deepspeed
import torch
import transformers
from transformers import PretrainedConfig

from pipeline.common import keyed
from pipeline.data.batches import Batches, rank_samples
from pipeline.data.objectives import IGNORED, CausalObjective
from pipeline.families import ActiveLayers
from pipeline.flops.counts import ForwardFlops, training_step
from pipeline.growth.initialization import initialized
from pipeline.recipe import OptimizerConfig, Recipe, TrainStage
from pipeline.training import distributed
from pipeline.training.engine import TrainedModel, build
from pipeline.training.loop.running import draw_depths, running, scoring
from pipeline.training.losses import summed_loss
from pipeline.training.parameter_groups import cut
from tests.benchmarks.made_up import batches, ids_and_labels, scratch
from tests.benchmarks.measuring import in_turn, part_parser, publish, table, zero_json
from tests.distributed.steps import trainer_of
from tests.ranks import run_ranks
from tests.shards import MemoryShard

LAYERS, PER_BLOCK, VOCABULARY = 12, 3, 8000
FAMILY_NAMES = ("gpt2", "bert")
PRECISIONS = {"fp32": False, "bf16": True}
"""Whether in half precision."""
CLOCKS = ("CPU", "wall")
DRAWN_STEPS = 12
WAYS = tuple(itertools.product(("one for each way", "DeepSpeed's own"), ("sorted", "drawn")))
"""Whose traces of modules, and in what order the depths come."""
LOOPS = ("bare DeepSpeed", "ours", "Trainer")


@dataclass(frozen=True)
class Size:
    hidden: int
    length: int
    sequences: int
    rounds: int
    steps: int
    """Of each loop."""
    zero: tuple[tuple[int, int], ...]
    """Stages, and ranks."""


FULL = Size(256, 128, 8, 6, 24, ((1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (3, 2)))
QUICK = Size(64, 16, 2, 1, 6, ((3, 1), (3, 2)))


def model(family_name: str, hidden: int, length: int, sequences: int, stage: int, precision: str = "fp32") -> TrainedModel:
    """Return a model of 12 layers in its engine, which takes one micro-batch a step."""
    family, config = scratch(family_name, LAYERS, hidden, VOCABULARY, length)
    ds_config = zero_json(stage, sequences, distributed.world_size(), half=PRECISIONS[precision])
    groups = cut(LAYERS, [TrainStage(name="submodels", submodel_layers=PER_BLOCK, steps=1)])
    return build(family, config, initialized(family, config, 1), ds_config, OptimizerConfig(), groups, "sdpa")


def batch(trained: TrainedModel, length: int, sequences: int) -> tuple[torch.Tensor, torch.Tensor]:
    return ids_and_labels(trained.family.objective, sequences, length, VOCABULARY, distributed.rank())


def take_step(
    trained: TrainedModel, active: ActiveLayers, ids: torch.Tensor, labels: torch.Tensor, places: torch.Tensor | None = None
) -> None:
    """Take one step, as the loop does; `places` are those of the scored positions, for which a device is else waited for."""
    trained.learn(active)
    with running(trained.module, trained.family, active), scoring(trained.module, trained.family, labels, places) as targets:
        loss = summed_loss(trained.logits(ids).tokens, targets)
    trained.engine.backward(loss / len(labels.flatten()))
    trained.engine.step()


def step(trained: TrainedModel, active: ActiveLayers, ids: torch.Tensor, labels: torch.Tensor) -> float:
    """Take one step; return the CPU seconds of this rank."""
    began = time.process_time()
    take_step(trained, active, ids, labels)
    return time.process_time() - began


def over_the_first(ways: Sequence[Callable[[], float]], rounds: int) -> list[float]:
    """Return the median of each one's seconds over the first one's of the same round; the first round is dropped."""
    rows = list(zip(*in_turn(dict(enumerate(ways)), rounds + 1).values(), strict=True))[1:]
    return [statistics.median(row[way] / row[0] for row in rows) for way in range(len(ways))]


# --- sections -------------------------------------------------------------------------------------


def sections(size: Size, out: Path | None) -> None:
    """Publish the time of each sub-model's step against what its FLOPs say."""
    kinds = itertools.product(FAMILY_NAMES, PRECISIONS)
    rows = [row for kind in kinds for row in run_ranks(section_times, 1, *kind, size, timeout=600)[0]]
    publish(
        out,
        "Sub-model steps against their FLOPs",
        f"A step of the bottom layers of {LAYERS} x {size.hidden}, of which the top {PER_BLOCK} learn (bert2BERT's first "
        f"stage), relative to a full step: CPU time, and executed FLOPs. ZeRO 1, one rank, {2 * size.sequences} x "
        f"{size.length} tokens, median of {size.rounds} rounds. `drawn`: on average over the depths.",
        table(["", "layers", "time / full", "FLOPs / full", "time / FLOPs"], rows),
    )


def section_times(family_name: str, precision: str, size: Size) -> list[list[object]]:
    length, sequences = size.length, 2 * size.sequences
    trained = model(family_name, size.hidden, length, sequences, 1, precision)
    ids, labels = batch(trained, length, sequences)
    submodels = [ActiveLayers.top(depth, PER_BLOCK) for depth in range(PER_BLOCK, LAYERS + 1, PER_BLOCK)]
    ways = [ActiveLayers.whole(LAYERS), *submodels]
    _, *times = over_the_first([lambda active=active: step(trained, active, ids, labels) for active in ways], size.rounds)
    forward, scored = ForwardFlops.of(trained.config), int((labels != IGNORED).sum())
    counts = [training_step(forward, length, ids.numel(), scored=scored, active=active).executed_total for active in ways]
    whole, *flops = counts
    rows = [(str(active.depth), taken, count / whole) for active, taken, count in zip(submodels, times, flops, strict=True)]
    # Each depth is drawn as often as the others.
    rows.append(("drawn", statistics.mean(times), statistics.mean(flops) / whole))
    return [[f"{family_name}, {precision}", depth, taken, share, taken / share] for depth, taken, share in rows]


# --- changing depths under ZeRO-3 -----------------------------------------------------------------


def depths(size: Size, out: Path | None) -> None:
    taken, rows = run_ranks(depth_times, 2, size, timeout=600), []
    for clock in CLOCKS:
        # Of both ranks together: what one waits for, the other does.
        by_round = zip(*(rank[clock] for rank in taken), strict=True)
        rounds = [[sum(seconds) for seconds in zip(*ranks, strict=True)] for ranks in by_round]
        for way, (whose, order) in enumerate(WAYS):
            rows.append([f"{order}, {whose}, {clock}", *compared(rounds, way, 0, 2 * DRAWN_STEPS)])
    publish(
        out,
        "Changing depths under ZeRO-3",
        "Two ranks: steps of one drawn depth each against the same steps in the order of their depths, so that the depth "
        "hardly changes; with DeepSpeed's trace of modules left to itself, and with one kept for each depth.",
        table(["order, traces, clock", "s a step", "times the first", "quartiles"], rows),
    )


def depth_times(size: Size) -> dict[str, list[list[float]]]:
    """Return by clock and round the seconds of each way: one engine each takes the same steps, one in turn."""
    length, sequences, rounds = size.length, 2, max(2, size.rounds)
    drawn = draw_depths(LAYERS, PER_BLOCK, (1, "benchmark"), 0, DRAWN_STEPS).tolist()
    engines = []
    for whose, _ in WAYS:
        with nullcontext() if whose == "one for each way" else patch("pipeline.deepspeed.engine.TraceCache"):
            engines.append(model("gpt2", size.hidden, length, sequences, 3))
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
                seconds["CPU"][way] += step(engines[way], ActiveLayers.top(depth, PER_BLOCK), ids, labels)
                seconds["wall"][way] += time.perf_counter() - began
        for clock, rows in taken.items():
            rows.append(seconds[clock])
    return {clock: rows[1:] for clock, rows in taken.items()}


def compared(rounds: Sequence[Sequence[float]], way: int, base: int, steps: int) -> list[object]:
    """Return the columns: the median seconds a step of a way, and over the base's in the same round median and quartiles."""
    low, middle, high = statistics.quantiles([seconds[way] / seconds[base] for seconds in rounds], n=4)
    return [statistics.median(seconds[way] for seconds in rounds) / steps, middle, f"{low:.3f} to {high:.3f}"]


# --- our loop, a bare one, and the Hugging Face Trainer -------------------------------------------


def loop(size: Size, out: Path | None) -> None:
    rows = []
    for stage, ranks in size.zero:
        taken = run_ranks(loop_times, ranks, stage, size, timeout=600)
        # Of all ranks together: what one waits for, the other does.
        rounds = [[sum(seconds) for seconds in zip(*each, strict=True)] for each in zip(*taken, strict=True)]
        words = f"ZeRO {stage}, {ranks} rank{'s' * (ranks > 1)}"
        rows += [[f"{words}: {name}", *compared(rounds, way, 0, 1)] for way, name in enumerate(LOOPS)]
    publish(
        out,
        "Our loop, a bare DeepSpeed loop, and the Hugging Face Trainer",
        f"A full step of a GPT-2 of {LAYERS} x {size.hidden} in fp32, {size.sequences} x {size.length} tokens a rank, in CPU "
        "time of all ranks together, loading included, with the same DeepSpeed JSON: deepspeed.initialize on Hugging Face's "
        "model and torch's fused AdamW, on the batches that ours has; ours; and Trainer. One step of each in turn, "
        f"{size.steps} times.",
        table(["", "s a step", "times the bare loop's", "quartiles"], rows),
    )


def loop_times(stage: int, size: Size) -> list[tuple[float, ...]]:
    """Return by step the CPU seconds of `LOOPS`, on this rank: each takes a step in turn."""
    length, sequences, steps, ranks = size.length, size.sequences, size.steps, distributed.world_size()
    ours, ds_config = model("gpt2", size.hidden, length, sequences, stage), zero_json(stage, sequences, ranks)
    with deepspeed.zero.Init(config_dict_or_path=ds_config, enabled=stage == 3):
        plain = transformers.GPT2LMHeadModel(ours.config)
    optimizer = torch.optim.AdamW(plain.parameters(), fused=True)
    bare, *_ = deepspeed.initialize(model=plain, optimizer=optimizer, config=ds_config)
    text = MemoryShard(keyed.below(("text",), 0, 2 * steps * ranks * sequences * length + 1, VOCABULARY))
    loaded = batches([text], CausalObjective(length))
    micro_batches = (
        loaded.training(samples)
        for number in itertools.count()
        for samples in rank_samples(number * sequences * ranks, sequences * ranks, sequences, distributed.rank(), ranks)
    )

    def bare_step() -> None:
        batch = next(micro_batches)
        logits = bare(input_ids=batch.input_ids, use_cache=False).logits
        bare.backward(torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten()))
        bare.step()

    with tempfile.TemporaryDirectory() as directory:
        our_step = the_loop(ours, loaded, length, sequences, 2 * steps, Path(directory))
        seconds: dict[str, list[float]] = {name: [] for name in LOOPS}

        def others() -> None:
            for name, take in zip(LOOPS, (bare_step, our_step), strict=False):
                began = time.process_time()
                take()
                seconds[name].append(time.process_time() - began)

        hugging_face(ours.config, ds_config, length, steps, Path(directory), seconds["Trainer"], others)
    # The first few make what later ones find.
    return list(zip(*seconds.values(), strict=True))[steps // 6 :]


def the_loop(
    trained: TrainedModel, loaded: Batches, length: int, sequences: int, steps: int, directory: Path
) -> Callable[[], object]:
    """Return what takes the next step of our loop over `steps` steps."""
    batch_size = sequences * distributed.world_size()
    sizes = {key: getattr(trained.sizes, key) for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    recipe = Recipe(
        run_dir=str(directory),
        data={"shards": "unused", "sequence_length": length},
        source={"model": {"family": "gpt2"} | sizes, "steps": steps},
        target={"hidden_size": trained.sizes.hidden_size},
        stages=[{"name": "unused", "steps": 1}],
    )
    batch = {"train_batch_size": batch_size, "train_micro_batch_size_per_gpu": sequences}
    trainer = trainer_of(recipe, trained, loaded, batch, directory)
    trainer.steps.begin_stage(*trainer.context.plan.stages[:1])

    def take() -> None:
        trainer.steps.launch()
        trainer.steps.judge()

    return take


def hugging_face(
    config: PretrainedConfig,
    ds_config: dict[str, object],
    length: int,
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
        per_device_train_batch_size=ds_config["train_micro_batch_size_per_gpu"],
        max_steps=steps,
        deepspeed=ds_config,
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
    parts = {"loop": loop, "sections": sections, "depths": depths}
    arguments = part_parser(__doc__.splitlines()[0], list(parts)).parse_args()
    logging.disable(logging.WARNING)
    for part in arguments.parts:
        parts[part](QUICK if arguments.quick else FULL, arguments.out)


if __name__ == "__main__":
    main()
