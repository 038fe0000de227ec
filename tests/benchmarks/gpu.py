"""What a step costs on a GPU, against bare PyTorch loops; and the memory of live growth. Nothing but a sentence without CUDA.

python -m tests.benchmarks.gpu [--models gpt2-24x1024 ...] [--ways zero1-compiled fair ...] [--seconds 420]

Each row is written when it is known, the most wanted first. `--device cpu` runs the same on a CPU, with --quick to try it out.
"""

import argparse
import contextlib
import gc
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from pipeline.flops.activations import activation_bytes
from pipeline.flops.counts import ForwardFlops, training_step
from pipeline.flops.peaks import find_peak
from pipeline.growth.memory import rank_bytes
from tests.benchmarks.gpu_ways import WAYS, Batch, Model, Way, configuration
from tests.benchmarks.made_up import SCORED
from tests.benchmarks.measuring import MIB, part_parser, publish, say, table, table_row, zero_json
from tests.benchmarks.memory import anonymous

SECONDS = 420.0
"""After which nothing further is started, so that all of it ends within nine minutes."""
GROWTH_SHARE = 0.15
"""Of the seconds, kept for growth."""
PROFILED_STEPS = 3
FILLED = 0.8
"""Share of the device's memory that a batch may come to."""


@dataclass(frozen=True)
class Size:
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
    warm=4,
    steps=5,
    blocks=3,
    growth=(Model("gpt2", 24, 1024, 1024, 1, 50_304), (36, 1280)),
)
QUICK = Size(
    (Model("gpt2", 2, 64, 32, 4, 500), Model("bert", 2, 64, 32, 4, 500)), 1, 2, 1, (Model("gpt2", 2, 64, 32, 1, 500), (3, 128))
)


WANTED = (("zero1-compiled", "fair"), ("zero1", "zero3-compiled"), ("zero3", "bare"), ("bare-compiled",))
"""The most wanted ways first, those of one group for each model in turn."""


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


# --- rows -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Speed:
    """Of one way."""

    tokens_per_second: float
    seconds: float
    """A step."""
    mfu: float
    idle: float | None
    """Share of a step in which the device does nothing; None on a CPU."""
    peak: int
    """Bytes of the device at most; 0 on a CPU."""


def speed(model: Model, way: Way, sequences: int, size: Size, device: torch.device) -> Speed:
    """Train for a few steps; raises whatever torch, DeepSpeed or a compiler does."""
    family, config = configuration(model)
    batch = Batch(model, family, sequences, device)
    step, close = way.step(model, batch, way)
    try:
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
        idle = idle_share(busy(step, device)) if device.type == "cuda" else None
    finally:
        # What went wrong before is what is reported.
        with contextlib.suppress(Exception):
            close()
    tokens = sequences * model.length
    flops = training_step(ForwardFlops.of(config), model.length, tokens, scored=batch.scored).model_total
    taken = statistics.median(seconds)
    mfu = find_peak(device, torch.bfloat16, None).utilization(flops, taken, 1)
    return Speed(tokens / taken, taken, mfu, idle, peak)


def busy(step: Callable[[], None], device: torch.device) -> list[tuple[float, float]]:
    """Return when the device did something over a few steps: (begin, end) of each kernel, copy and fill, in microseconds."""
    # The device's activities alone: recording the host's would slow the host.
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(PROFILED_STEPS):
            step()
        settle(device)
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        recorded.export_chrome_trace(file.name)
        return device_spans(json.loads(Path(file.name).read_text(encoding="utf-8")))


def device_spans(trace: dict[str, list[dict]]) -> list[tuple[float, float]]:
    """Return the (begin, end) of what a device did in a trace of torch's profiler."""
    kinds = ("kernel", "gpu_memcpy", "gpu_memset")
    return [
        (event["ts"], event["ts"] + event["dur"])
        for event in trace["traceEvents"]
        if event.get("ph") == "X" and event.get("cat") in kinds
    ]


def idle_share(spans: Iterable[tuple[float, float]]) -> float:
    """Return the share of the time from the first begin to the last end in which no span is; 1 where there is none."""
    begin = reach = None
    worked = 0.0
    for start, end in sorted(spans):
        begin, reach = (start, start) if begin is None else (begin, reach)
        worked += max(0.0, end - max(start, reach))
        reach = max(reach, end)
    return 1.0 if begin is None or reach == begin else 1 - worked / (reach - begin)


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forget(device: torch.device) -> None:
    """Give back what the last way held, its compiled code too."""
    gc.collect()
    torch._dynamo.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"


def answers(device: torch.device) -> bool:
    """Whether the device still computes: after a kernel's fault no process gets it to, but a new one."""
    try:
        return torch.ones(2, device=device).sum().item() == 2
    except Exception:
        return False


@dataclass
class Results:
    """What is measured by now."""

    out: Path | None
    speeds: list[Speed | None]
    """Of the first rows; None of those that failed."""
    growth: int | None = None
    """Bytes of growth over a fresh engine."""

    def go_on_in_a_new_process(self, seconds: float) -> NoReturn:
        """Begin anew with the row that comes next."""
        speeds = json.dumps([each and asdict(each) for each in self.speeds])
        further = ["--seconds", str(max(0.0, seconds)), "--results", speeds]
        os.execv(sys.executable, [sys.executable, "-m", "tests.benchmarks.gpu", *sys.argv[1:], *further])


def plan(models: Sequence[Model], ways: Sequence[str]) -> list[tuple[Model, str]]:
    return [(model, way) for group in WANTED for model in models for way in group if way in ways]


COLUMNS = ["", "tokens/s", "MFU", "of the first's speed", "ms a step", "idle", "peak MiB"]


def speeds(rows: Sequence[tuple[Model, str]], size: Size, device: torch.device, deadline: float, results: Results) -> None:
    """Publish the speed of each row that is not published yet, each at once."""
    if not results.speeds:
        publish(
            results.out,
            "Steps on a device",
            f"bf16, sdpa, AdamW, clipping, {name_of(device)}; sequences x length of a step after the model's name. Ours: bf16 "
            "weights with fp32 masters in the engine. Fair: the same in a bare loop, every layer and the loss compiled. The "
            "other bare loops: fp32 weights under autocast. The MFU counts matrix products alone and all attention scores, "
            "against the data sheet's peak where there is one; of a masked model both heads run on the "
            f"{SCORED:.0%} of positions that are scored. Idle is the device, over {PROFILED_STEPS} steps that are recorded.",
        )
        say(results.out, table(COLUMNS, []) + "\n")
    for model, key in rows[len(results.speeds) :]:
        if time.monotonic() > deadline:
            say(results.out, table_row([f"{model.name}: {WAYS[key].name}", "left out for lack of time", *[""] * 5]) + "\n")
            continue
        sequences = sequences_that_fit(model, device)
        name = f"{model.name}, {sequences} x {model.length}: {WAYS[key].name}"
        try:
            found = speed(model, WAYS[key], sequences, size, device)
        except Exception as error:
            traceback.print_exc()
            found, reason = None, " ".join(f"{type(error).__name__}: {error}".split())[:200].replace("|", "/")
        results.speeds.append(found)
        if found is None:
            say(results.out, table_row([name, f"failed: {reason}", *[""] * 5]) + "\n")
        else:
            first = next(each for (other, _), each in zip(rows, results.speeds, strict=False) if other == model and each)
            shares = [f"{found.mfu:.1%}", found.tokens_per_second / first.tokens_per_second]
            idle = "" if found.idle is None else f"{found.idle:.1%}"
            figures = [found.tokens_per_second, *shares, found.seconds * 1e3, idle, found.peak / MIB]
            say(results.out, table_row([name, *figures]) + "\n")
        forget(device)
        if found is None and not answers(device):
            results.go_on_in_a_new_process(deadline - time.monotonic())
    say(results.out, "\n")


# --- the memory of live growth --------------------------------------------------------------------


def growing(size: Size, device: torch.device, out: Path | None) -> int:
    """Publish the peak of growing into ZeRO-3 partitions against a fresh engine's; return the difference in bytes."""
    # Here alone, as `our_step` imports it.
    from tests.benchmarks.live_growth import fresh_engine, grown_model, planned

    model, (layers, hidden) = size.growth
    family, small = configuration(model)
    ds_config = zero_json(3, half=True)
    with tempfile.TemporaryDirectory() as directory:
        family.model_class(small).to(torch.bfloat16).save_pretrained(directory)
        source, config, plan = planned(Path(directory), layers, hidden)

        def fresh() -> tuple[nn.Module, Callable[[], None]]:
            engine = fresh_engine(family, config, ds_config)
            return engine.module, engine.destroy

        def grown() -> tuple[nn.Module, Callable[[], None]]:
            trained = grown_model(source, config, plan, ds_config)
            return trained.module, trained.close

        rows, peaks = [], []
        # The fresh one first: what DeepSpeed makes once, and keeps, is then its.
        for name, start in (("fresh", fresh), ("grown", grown)):
            forget(device)
            before = held(device)
            module, close = start()
            after = held(device) - before
            peaks.append(torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else after)
            # Without Adam's moments, which the first step makes.
            tensors = [(parameter.ds_numel, 0) for parameter in module.parameters()]
            partitions = rank_bytes(tensors, 1, 3, torch.bfloat16)
            kept = partitions.weights + partitions.masters
            rows.append([name, after / MIB, peaks[-1] / MIB, peaks[-1] / kept, (peaks[-1] - peaks[0]) / MIB])
            close()
            del module, close
    forget(device)
    publish(
        out,
        "Growing into live partitions",
        f"{model.name} to {{{layers}, {hidden}}} under ZeRO-3 in bf16 by one rank, {name_of(device)}: what the device holds "
        "once the engine is built, and at most until then, DeepSpeed's own buffers among it, against the partitions (bf16 "
        f"weights and fp32 masters, {kept / MIB:,.0f} MiB). Fresh is zero.Init, Hugging Face's initialization and "
        "deepspeed.initialize.",
        table(["engine", "MiB held afterwards", "MiB at most", "of the partitions", "MiB over the fresh one's"], rows),
    )
    return peaks[1] - peaks[0]


def held(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else anonymous()


# --- what a GPU is held to ------------------------------------------------------------------------


def verdicts(rows: Sequence[tuple[Model, str]], results: Results) -> None:
    """Publish what the project is to reach on a GPU beside what was measured."""
    found = {(model.key, way): each for (model, way), each in zip(rows, results.speeds, strict=False) if each is not None}
    large, small = FULL.models[0], FULL.models[1]
    ours, fair = found.get((large.key, "zero1-compiled")), found.get((large.key, "fair"))
    smaller = found.get((small.key, "zero1-compiled"))
    ratio = ours.tokens_per_second / fair.tokens_per_second if ours and fair else None
    figures = [
        (f"MFU, {large.name}, ZeRO 1, compiled", ours and ours.mfu, "at least", 0.45, "{:.1%}"),
        (f"speed over the fair loop's, {large.name}, ZeRO 1, compiled", ratio, "at least", 0.97, "{:.3f}"),
        (f"MFU, {small.name}, ZeRO 1, compiled", smaller and smaller.mfu, "at least", 0.40, "{:.1%}"),
        (f"idle device, {large.name}, ZeRO 1, compiled", ours and ours.idle, "at most", 0.05, "{:.1%}"),
        ("growth's peak over a fresh engine's, MiB", results.growth and results.growth / MIB, "at most", 256.0, "{:,.0f}"),
    ]
    lines = []
    for what, value, way, limit, form in figures:
        holds = value is not None and (value >= limit if way == "at least" else value <= limit)
        measured = ["not measured", ""] if value is None else [form.format(value), "yes" if holds else "no"]
        lines.append([what, f"{way} {form.format(limit)}", *measured])
    publish(
        results.out,
        "Held to",
        "What is to be reached on one NVIDIA H100, beside what was measured on this device.",
        table(["", "is to be", "is", "held"], lines),
    )


def command_line() -> argparse.ArgumentParser:
    models = sorted({model.key for size in (FULL, QUICK) for model in size.models})
    parser = part_parser(__doc__.splitlines()[0], ("steps", "growth"))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--models", nargs="+", choices=models, metavar="MODEL", help=f"of {', '.join(models)} (default: all)")
    ways = f"of {', '.join(WAYS)} (default: all)"
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS], metavar="WAY", help=ways)
    seconds = f"after which nothing further is started (default: {SECONDS:.0f})"
    parser.add_argument("--seconds", type=float, default=SECONDS, help=seconds)
    # What a process before this one measured, whose device then answered no more.
    parser.add_argument("--results", type=json.loads, default=[], help=argparse.SUPPRESS)
    return parser


def main() -> None:
    arguments = command_line().parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        publish(arguments.out, "On a GPU", "Not measured: torch sees no CUDA device here.")
        return
    size, began = QUICK if arguments.quick else FULL, time.monotonic()
    device = torch.device(arguments.device, 0) if arguments.device == "cuda" else torch.device("cpu")
    results = Results(arguments.out, [each and Speed(**each) for each in arguments.results])
    deepspeed_is_here = importlib.util.find_spec("deepspeed") is not None
    if deepspeed_is_here:
        from pipeline.training import distributed

        distributed.join()
    elif not results.speeds:
        publish(results.out, "Our engine", "Not measured: DeepSpeed is not installed here.")
    models = [model for model in size.models if not arguments.models or model.key in arguments.models]
    rows = plan(models, [way for way in arguments.ways if deepspeed_is_here or WAYS[way].zero is None])
    grows = deepspeed_is_here and "growth" in arguments.parts
    if "steps" in arguments.parts:
        speeds(rows, size, device, began + arguments.seconds * (1 - GROWTH_SHARE * grows), results)
    if grows:
        try:
            results.growth = growing(size, device, results.out)
        except Exception as error:
            traceback.print_exc()
            publish(results.out, "Growing into live partitions", f"Failed: {type(error).__name__}: {error}")
    if device.type == "cuda" and size is FULL:
        verdicts(rows, results)


if __name__ == "__main__":
    main()
