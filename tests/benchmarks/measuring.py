"""What every part of the benchmarks needs: its command line, turns within one run, the cost of a command, exponents, tables."""

import argparse
import contextlib
import math
import multiprocessing
import os
import shlex
import signal
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy
import psutil
import torch

from tests.benchmarks.memory import Watched, anonymous
from tests.forked import context, put_next

ROOT = Path(__file__).parents[2]
MIB = 2**20
GIB = 2**30
_INTERVAL = 0.02
"""Seconds between two looks at what a command holds."""

_LOOK = 0.25
"""Seconds between two looks at which processes a command has started: that goes through all of the machine's."""


def part_parser(description: str, parts: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return a part's command line: --out FILE, which sections are appended to, --quick, and --parts where it has several."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32)
    )
    parser.add_argument("--out", type=Path, help="a Markdown file that sections are appended to (default: print them alone)")
    parser.add_argument("--quick", action="store_true", help="sizes that end in well under a minute and say nothing")
    if parts:
        parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="what is measured (default: all)")
    return parser


def add_text(parser: argparse.ArgumentParser) -> None:
    """Let the command line name text to prepare."""
    what = "text to prepare: files that data_prep reads (default: made up)"
    parser.add_argument("--text", nargs="+", default=[], metavar="GLOB", help=what)


def described(files: Sequence[str]) -> str:
    return f"pieces of {' '.join(Path(each).name for each in files)}" if files else "made up"


def zero_json(stage: int, sequences: int = 1, ranks: int = 1, *, half: bool = False) -> dict[str, object]:
    """Return DeepSpeed's JSON for a step of one micro-batch of so many sequences on each rank, in bf16 or fp32."""
    return {
        "train_batch_size": sequences * ranks,
        "train_micro_batch_size_per_gpu": sequences,
        "gradient_clipping": 1.0,
        # As a run has it, where its file does not say otherwise.
        "bf16": {"enabled": half, "check_grad_overflow": False},
        "timers": {"throughput": {"enabled": False}},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage},
        "steps_per_print": 1 << 40,
    }


def publish(out: Path | None, heading: str, sentence: str, *blocks: str) -> None:
    """Print a section, and append it to `out`: at once, so that a time limit costs only what comes after."""
    say(out, "\n\n".join([f"## {heading}", sentence, *blocks]) + "\n\n")


def say(out: Path | None, text: str) -> None:
    """Print a text as it is, and append it to `out`."""
    print(text, end="", flush=True)
    if out is not None:
        with out.open("a", encoding="utf-8") as file:
            file.write(text)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; the first column is words, the others are figures and stand to the right."""
    return "\n".join(map(table_row, [columns, [":--"] + ["--:"] * (len(columns) - 1), *rows]))


def table_row(cells: Sequence[object]) -> str:
    """Return one row of a Markdown table, for one that is said row by row."""
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(value: object) -> str:
    """Three significant digits, and all digits before the point."""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return e of cost = c size^e: least squares of log(cost) on log(size)."""
    return float(numpy.polyfit(numpy.log(sizes), numpy.log(costs), 1)[0])


def in_turn(works: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    """Return what each work returned in each round, its seconds where it returned None.

    Turn by turn, so that a machine that is busy for a while slows all of them.
    """
    taken: dict[str, list[Any]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            began = time.perf_counter()
            result = work()
            taken[name].append(time.perf_counter() - began if result is None else result)
    return taken


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock, seconds of processors, and the peak of anonymous bytes."""

    seconds: float
    cpu: float
    peak: int


def measured(function: Callable[..., Any], *arguments: Any, timeout: float = 600) -> Cost:
    """Return what a module's function costs in a process of its own, imports and what they hold left out.

    Raises RuntimeError with the function's traceback, or where it is killed or passes the time limit (seconds).
    """
    results = context().Queue()
    process = context().Process(target=_measure, name=function.__name__, args=(results, function, arguments), daemon=True)
    process.start()
    try:
        cost, failure = put_next([process], results, time.monotonic() + timeout)
    finally:
        process.join(timeout=5)
        process.kill()
        process.join()
    if failure is not None:
        raise RuntimeError(failure)
    return cost


def _measure(results: multiprocessing.Queue, function: Callable[..., Any], arguments: tuple) -> None:
    try:
        torch.set_num_threads(1)
        began, processors = time.perf_counter(), time.process_time()
        with Watched() as watched:
            function(*arguments)
        results.put((Cost(time.perf_counter() - began, time.process_time() - processors, watched.peak), None))
    except BaseException:
        results.put((None, traceback.format_exc()))


def cost_of(command: Sequence[object], environment: Mapping[str, str] | None = None, timeout: float = 600) -> Cost:
    """Run a command from the repository's root and return its cost, of all that it started too, imports included.

    Raises RuntimeError with the end of what it said where it fails or passes the time limit (seconds); it and what it
    started are then gone.
    """
    peak, looked = 0, -math.inf
    began, before = time.perf_counter(), os.times()
    with _running(command, environment) as process:
        while process.poll() is None:
            now = time.perf_counter()
            if now - looked > _LOOK:
                family, looked = _family(process.pid), now
            peak = max(peak, _held(family))
            if now - began > timeout:
                raise _late(command, timeout)
            time.sleep(_INTERVAL)
        seconds = time.perf_counter() - began
    after = os.times()
    return Cost(seconds, sum(after[2:4]) - sum(before[2:4]), peak)


def run_within(command: Sequence[object], timeout: float) -> None:
    """Run a command as `cost_of` does, but look at nothing: what it measures is not disturbed."""
    with _running(command) as process:
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise _late(command, timeout) from None


@contextlib.contextmanager
def process_group(
    command: Sequence[object], environment: Mapping[str, str] | None = None, output: IO[Any] | None = None
) -> Iterator[subprocess.Popen]:
    """Run a command from the repository's root while the block lasts; afterwards it and what it started are gone."""
    environment = os.environ | dict(environment or {})
    words = list(map(str, command))
    process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        yield process
    finally:
        # What it started may outlive it, and have a session of its own, as a part's commands do.
        for one in _family(process.pid) if process.returncode is None else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def _running(command: Sequence[object], environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen]:
    """Run a command while the block waits for it; raises RuntimeError with the end of what it said where it fails."""
    with tempfile.TemporaryFile() as said:
        with process_group(command, environment, said) as process:
            yield process
        if process.returncode != 0:
            said.seek(0)
            end = said.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{shlex.join(map(str, command))}: exit status {process.returncode}\n{end}")


def _late(command: Sequence[object], timeout: float) -> RuntimeError:
    return RuntimeError(f"{shlex.join(map(str, command))}: no end within {timeout:.0f} s")


def _held(processes: list[int]) -> int:
    held = 0
    for one in processes:
        with contextlib.suppress(OSError):
            held += anonymous(one)
    return held


def _family(process: int) -> list[int]:
    """A process and all that it started that is still there."""
    try:
        return [process, *(child.pid for child in psutil.Process(process).children(recursive=True))]
    except psutil.Error:
        return [process]
