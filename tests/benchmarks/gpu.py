"""What a step costs on a GPU, against a bare PyTorch loop; and the memory of live growth. Nothing but a sentence without CUDA.

python -m tests.benchmarks.gpu

`--device cpu` runs the same on a CPU, with --quick to try it out.
"""

import gc
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from pipeline.data.objectives import IGNORED
from pipeline.families import FAMILIES, Family, Section, scratch_config, sizes_of, target_config
from pipeline.flops.activations import activation_bytes
from pipeline.flops.counts import training_step
from pipeline.flops.peaks import find_peak
from pipeline.growth.initialization import initialized
from pipeline.growth.memory import rank_bytes
from pipeline.growth.plan import plan_growth
from pipeline.growth.sources import open_source
from pipeline.recipe import GrowthConfig, ModelConfig, OptimizerConfig, TargetConfig
from tests.benchmarks.made_up import SCORED, ids_and_labels
from tests.benchmarks.measuring import MIB, part_parser, publish, table, zero_json
from tests.benchmarks.memory import anonymous

LIMIT = 420.0
"""Seconds after which no further way is begun, so that all of it ends within nine minutes."""
FILLED = 0.8
"""Share of the device's memory that a batch may come to."""
LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Model:
    """A model to train, and the most sequences of one step."""

    family: str
    layers: int
    hidden: int
    length: int
    sequences: int
    vocabulary: int

    @property
    def name(self) -> str:
        """What it is called in the tables."""
        return f"{self.family} {{{self.layers}, {self.hidden}}}"


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    models: tuple[Model, ...]
    warm: int
    steps: int
    """Of a block, which is timed."""
    blocks: int
    growth: tuple[Model, tuple[int, int]]
    """A source, and the target's layers and hidden size."""


# The largest first: where time runs out, the others are left out.
FULL = Size(
    (
        Model("gpt2", 24, 1024, 1024, 64, 50_304),
        Model("gpt2", 12, 768, 1024, 64, 50_304),
        Model("bert", 12, 768, 512, 256, 30_528),
    ),
    4,
    5,
    3,
    (Model("gpt2", 24, 1024, 1024, 1, 50_304), (36, 1280)),
)
QUICK = Size(
    (Model("gpt2", 2, 64, 32, 4, 500), Model("bert", 2, 64, 32, 4, 500)),
    1,
    2,
    1,
    (Model("gpt2", 2, 64, 32, 1, 500), (3, 128)),
)


@dataclass(frozen=True)
class Way:
    """How a model is trained."""

    name: str
    zero: int | None
    """DeepSpeed's stage under our engine; None for the bare loop."""
    compiled: bool


WAYS = (
    Way("ours, ZeRO 1", 1, False),
    Way("bare PyTorch", None, False),
    Way("ours, ZeRO 1, compiled", 1, True),
    Way("bare PyTorch, compiled", None, True),
    Way("ours, ZeRO 3", 3, False),
)


class Batch:
    """Ids and labels that say nothing, on the device; a masked model scores some of them."""

    def __init__(self, model: Model, family: Family, sequences: int, device: torch.device) -> None:
        ids, labels = ids_and_labels(family.objective, sequences, model.length, model.vocabulary)
        self.ids, self.labels = ids.to(device), labels.to(device)
        self.scored = int((labels != IGNORED).sum())


def configuration(model: Model) -> tuple[Family, object]:
    """Return the family and the configuration of a model with heads of 64 channels, or of 32 where it is small."""
    described = ModelConfig(
        family=model.family,
        hidden_size=model.hidden,
        num_hidden_layers=model.layers,
        num_attention_heads=max(2, model.hidden // 64),
    )
    config = scratch_config(described, model.vocabulary, 0, model.length)
    config._attn_implementation = "sdpa"
    return FAMILIES[model.family], config


def sequences_that_fit(model: Model, device: torch.device) -> int:
    """Return how many sequences, a power of two, a step of either way has room for."""
    if device.type != "cuda":
        return model.sequences
    family, config = configuration(model)
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in family.model_class(config).parameters())
    # 2 bytes of weights and of gradients, 12 of masters and moments; gradients in fp32 in passing.
    room = FILLED * torch.cuda.get_device_properties(device).total_memory - 20 * parameters
    sequences = model.sequences
    while sequences > 1:
        tokens = sequences * model.length
        scored = tokens if family.objective == "clm" else round(SCORED * tokens)
        kept = activation_bytes(family, config, model.length, tokens, scored=scored, dtype=torch.bfloat16)
        # The bare loop's loss takes all logits to fp32, and keeps their logarithms and their gradient in it.
        if kept + 12 * scored * model.vocabulary < room:
            break
        sequences //= 2
    return sequences


# --- ways of training -----------------------------------------------------------------------------


def our_step(model: Model, batch: Batch, way: Way) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return what takes a step of our engine in bf16, and what gives its memory back."""
    # Here alone, so that the bare loop is measured where DeepSpeed is not installed.
    from pipeline.training.blocks import cut
    from pipeline.training.engine import build
    from tests.benchmarks.training import take_step

    family, config = configuration(model)
    ds_config = zero_json(way.zero, len(batch.ids), half=True)
    optimizer, blocks = OptimizerConfig(lr=LEARNING_RATE), cut(model.layers, [])
    trained = build(family, config, initialized(family, config, 1), ds_config, optimizer, blocks, "sdpa", compile=way.compiled)
    whole = Section.whole(model.layers)
    return lambda: take_step(trained, whole, batch.ids, batch.labels), trained.close


def bare_step(model: Model, batch: Batch, way: Way) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return what takes a step of a plain loop, and what gives its memory back.

    fp32 weights under bf16 autocast, fused AdamW, clipping by norm: what our engine's fp32 masters come to.
    """
    family, config = configuration(model)
    device = batch.ids.device
    with device:
        plain = family.model_class(config).train()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=LEARNING_RATE, fused=True)
    places = (batch.labels.flatten() != IGNORED).nonzero().squeeze(1)
    labels = batch.labels.flatten()[places]

    def mean_loss(ids: torch.Tensor) -> torch.Tensor:
        if family.objective == "clm":
            logits = plain(input_ids=ids, use_cache=False).logits.flatten(0, 1)
        else:
            # The head on the scored positions alone, as ours.
            logits = plain.cls(plain.bert(input_ids=ids).last_hidden_state.flatten(0, 1)[places])
        return cross_entropy(logits.float(), labels)

    called = torch.compile(mean_loss) if way.compiled else mean_loss
    clipping = zero_json(1)["gradient_clipping"]

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = called(batch.ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), clipping)
        optimizer.step()
        optimizer.zero_grad()

    return step, lambda: None


@dataclass(frozen=True)
class Speed:
    """Of one way."""

    tokens_per_second: float
    mfu: float
    peak: float
    """Bytes of the device at most; 0 on a CPU."""


def speed(model: Model, way: Way, sequences: int, size: Size, device: torch.device) -> Speed:
    """Train for a few steps; raises torch.OutOfMemoryError."""
    family, config = configuration(model)
    batch = Batch(model, family, sequences, device)
    step, close = (bare_step if way.zero is None else our_step)(model, batch, way)
    for _ in range(size.warm):
        step()
    settle(device)
    seconds = []
    for _ in range(size.blocks):
        began = time.perf_counter()
        for _ in range(size.steps):
            step()
        settle(device)
        seconds.append((time.perf_counter() - began) / size.steps)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    close()
    tokens = sequences * model.length
    flops = training_step(family, sizes_of(config), model.length, tokens, scored=batch.scored).model_total
    taken = statistics.median(seconds)
    return Speed(tokens / taken, find_peak(device, torch.bfloat16, None).utilization(flops, taken, 1), peak)


def settle(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forget(device: torch.device) -> None:
    """Give back what the last way held, its compiled code too."""
    gc.collect()
    torch._dynamo.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def speeds(size: Size, device: torch.device, deepspeed: bool, deadline: float, out: Path | None) -> None:
    """Publish each model's speed by each way, one table a model."""
    for model in size.models:
        sequences, rows, first = sequences_that_fit(model, device), [], None
        for way in WAYS:
            if way.zero is not None and not deepspeed:
                continue
            if time.monotonic() > deadline:
                rows.append([way.name, "left out for lack of time", "", "", ""])
                continue
            try:
                found = speed(model, way, sequences, size, device)
            except torch.OutOfMemoryError:
                rows.append([way.name, "out of memory", "", "", ""])
                continue
            finally:
                forget(device)
            first = first or found
            shares = [f"{found.mfu:.1%}", found.tokens_per_second / first.tokens_per_second]
            rows.append([way.name, found.tokens_per_second, *shares, found.peak / MIB])
        publish(
            out,
            f"{model.name} on a device",
            f"bf16, {sequences} sequences of {model.length} a step, sdpa, AdamW, clipping, {name_of(device)}; ours: bf16 "
            "weights with fp32 masters in the engine; bare: fp32 weights under autocast. The MFU counts matrix products alone "
            "and all attention scores, against the data sheet's peak where there is one; of a masked model both heads run on "
            f"the {SCORED:.0%} of positions that are scored.",
            table(["", "tokens/s", "MFU", "of the first's speed", "peak MiB"], rows),
        )


def name_of(device: torch.device) -> str:
    """What the device calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"


# --- the memory of live growth --------------------------------------------------------------------


def growing(size: Size, device: torch.device, out: Path | None) -> None:
    """Publish the peak of growing into ZeRO-3 partitions against what they hold."""
    from pipeline.training.blocks import cut
    from pipeline.training.engine import build

    model, (layers, hidden) = size.growth
    family, small = configuration(model)
    ds_config = zero_json(3, half=True)
    with tempfile.TemporaryDirectory() as directory:
        family.model_class(small).to(torch.bfloat16).save_pretrained(directory)
        source = open_source(Path(directory))
        config = target_config(source.config, TargetConfig(hidden_size=hidden, num_hidden_layers=layers))
        state = plan_growth(source.config, config, GrowthConfig(width="fpi", depth="last_layer"), 1).grow(source.state)
        forget(device)
        before = held(device)
        trained = build(family, config, state, ds_config, OptimizerConfig(), cut(layers, []), "sdpa")
        after = held(device) - before
        peak = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else after
        # Without Adam's moments, which the first step makes.
        tensors = [(parameter.ds_numel, 0) for parameter in trained.module.parameters()]
        partitions = rank_bytes(tensors, 1, 3, torch.bfloat16)
        trained.close()
    kept = partitions.weights + partitions.masters
    publish(
        out,
        "Growing into live partitions",
        f"{model.name} to {{{layers}, {hidden}}} under ZeRO-3 in bf16 by one rank, {name_of(device)}: bytes that the device "
        "holds at most while the engine is built and filled, and afterwards, DeepSpeed's own buffers among them, against the "
        "partitions (bf16 weights and fp32 masters).",
        table(
            ["", "MiB", "of the partitions"],
            [
                ["partitions", kept / MIB, 1.0],
                ["held afterwards", after / MIB, after / kept],
                ["at most", peak / MIB, peak / kept],
            ],
        ),
    )


def held(device: torch.device) -> int:
    """The bytes that are held on the device."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else anonymous()


def main() -> None:
    """Measure all of it, or say why not."""
    parser = part_parser(__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        publish(arguments.out, "On a GPU", "Not measured: torch sees no CUDA device here.")
        return
    size, deadline = QUICK if arguments.quick else FULL, time.monotonic() + LIMIT
    deepspeed = importlib.util.find_spec("deepspeed") is not None
    device = torch.device(arguments.device, 0) if arguments.device == "cuda" else torch.device("cpu")
    if deepspeed:
        from pipeline.training import distributed

        distributed.join()
        growing(size, device, arguments.out)
    else:
        publish(arguments.out, "Our engine", "Not measured: DeepSpeed is not installed here.")
    speeds(size, device, deepspeed, deadline, arguments.out)


if __name__ == "__main__":
    main()
