"""Whether this machine's GPUs are well, and how fast they are here: `make gpu`.

python -m tests.benchmarks.on_a_gpu [--seconds 900] [--out bench/on_a_gpu.md]

First what training needs is looked at, then tests/end_to_end/test_gpu.py runs, then the benchmark of `tests.benchmarks.gpu`.
`--rehearse` does the same on a CPU, small.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import psutil
import torch

from pipeline.flops.peaks import device_peak, measured_peak
from pipeline.training.toolchain import missing_tool, reach_ninja, triton_runs
from tests.benchmarks.__main__ import machine
from tests.benchmarks.measuring import GIB, MIB, ROOT, process_group, publish, say, table
from tests.ranks import environments

SECONDS = 900.0
LOOK_SECONDS = 240.0
MEETING_SECONDS = 120.0
"""In which all ranks must have added their numbers."""
TEST_SHARE = 0.4
"""Of the seconds that are left after the first look."""
ROW_SECONDS = 90.0
"""What a row of the benchmark takes that is started last."""
SHARED_MEMORY = 1 * GIB
"""Of /dev/shm, by which NCCL's ranks of one machine speak where they cannot directly. Docker gives 64 MiB."""
WORKERS = 9
TESTS = "tests/end_to_end/test_gpu.py"


class Look:
    """What was looked at: rows of a table, and whether all that training needs is there."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = []
        self.well = True

    def at(self, what: str, look: Callable[[], str | None], *, needed: bool = True) -> None:
        """Add a row; `look` says what it found, and raises where that is not well. Not all is `needed`."""
        try:
            found, verdict = look() or "", "well"
        except Exception as error:
            if not isinstance(error, NotWellError):
                traceback.print_exc()
            found, verdict = " ".join(str(error).split())[:300].replace("|", "/"), "NOT WELL" if needed else "left out"
            self.well &= not needed
        self.rows.append([what, found, verdict])


class NotWellError(Exception):
    """Something that was looked for and is not there, or not right."""


def no_gpu() -> str | None:
    """Return the sentence for a machine without a GPU that torch can use."""
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None and torch.version.hip is None:
        return f"there is no GPU for this torch: {torch.__version__} is built for CPUs; install a build for the GPU's driver"
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    return f"there is no GPU here: torch {torch.__version__} for {built} sees none; nvidia-smi says whether the driver does"


def devices(rehearsed: bool) -> list[torch.device]:
    return [torch.device("cpu")] if rehearsed else [torch.device("cuda", index) for index in range(torch.cuda.device_count())]


def look(rehearsed: bool, out: Path) -> bool:
    """Look at all that training needs, and publish it; return whether it is there."""
    say(out, machine() + "\n")
    found = Look()
    for device in devices(rehearsed):
        found.at(str(device), lambda device=device: memory(device))
        found.at(f"{device}: a product in bfloat16", lambda device=device: product(device))
    kind = devices(rehearsed)[0].type
    found.at("collectives of all GPUs", lambda: together(rehearsed))
    found.at("`compile: true`", lambda: compiled(kind), needed=False)
    found.at("fused kernels of the loss and the optimizer", lambda: kernels(devices(rehearsed)[0]), needed=False)
    found.at("offloading: DeepSpeed's CPU Adam", offloading, needed=False)
    found.at("/dev/shm", shared_memory, needed=not rehearsed and torch.cuda.device_count() > 1)
    found.at("temporary files", lambda: f"{shutil.disk_usage(tempfile.gettempdir()).free / GIB:.0f} GiB free")
    found.at("host", lambda: f"{psutil.virtual_memory().available / GIB:.0f} GiB free, {os.cpu_count()} cores")
    found.at("versions", versions)
    publish(out, "What training needs", "Looked at on this machine, now.", table(["", "found", ""], found.rows))
    return found.well


def memory(device: torch.device) -> str:
    """Say what a device is called and how much of it is free."""
    if device.type == "cpu":
        return f"{psutil.virtual_memory().available / GIB:.0f} GiB free"
    free, total = torch.cuda.mem_get_info(device)
    said = f"{torch.cuda.get_device_name(device)}, {free / GIB:.0f} of {total / GIB:.0f} GiB free"
    if free < total / 2:
        raise NotWellError(f"{said}: other processes hold the rest; nvidia-smi names them")
    return said


def product(device: torch.device) -> str:
    """Check a product of matrices in bfloat16 against float64, and say how fast large ones are."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise NotWellError('this GPU has no bfloat16; set "fp16": {"enabled": true} in the DeepSpeed configuration')
    torch.manual_seed(0)
    a, b = torch.randn(2, 512, 512, device=device, dtype=torch.bfloat16)
    exact = a.double() @ b.double()
    off = ((a @ b).double() - exact).abs().max().item() / exact.abs().max().item()
    # bfloat16 has 8 bits: a rounded result is off by 2^-9 of itself at most.
    if not off < 2**-7:
        raise NotWellError(f"a product of 512 x 512 is off by {off:.2g} of its largest element: the device computes wrongly")
    speed = measured_peak(device, torch.bfloat16)
    sheet = device_peak(torch.cuda.get_device_name(device), torch.bfloat16) if device.type == "cuda" else None
    return f"right; {speed / 1e12:.3g} TFLOP/s" + (f", {speed / sheet:.0%} of its data sheet's" if sheet else "")


def compiled(kind: str) -> str:
    """Check what torch.compile makes for a device."""
    missing = missing_tool(kind)
    if missing is not None:
        raise NotWellError(f"needs {missing}")
    began, x = time.monotonic(), torch.linspace(-3, 3, 4096, device=kind)
    off = (torch.compile(lambda x: torch.nn.functional.gelu(x) * 2 + 1)(x) - (torch.nn.functional.gelu(x) * 2 + 1)).abs().max()
    if not off < 1e-5:
        raise NotWellError(f"a compiled function is off by {off:.2g}")
    return f"a first function in {time.monotonic() - began:.0f} s"


def kernels(device: torch.device) -> str:
    """Say whether Triton's kernels run on a device; without them a run goes on, more slowly."""
    if not triton_runs(device):
        raise NotWellError("none on a CPU" if device.type == "cpu" else "Triton cannot compile: the warning above says why")
    return "Triton compiles them, and they run"


def offloading() -> str:
    """Say whether DeepSpeed can build its CPU Adam; without it torch's is used, which is slower."""
    missing = missing_tool("cpu")
    if missing is not None:
        raise NotWellError(f"torch's AdamW is used, which is slower: needs {missing}")
    if not reach_ninja():
        raise NotWellError("torch's AdamW is used, which is slower: needs ninja; pip install ninja")
    nvcc = shutil.which("nvcc")
    return f"a C++ compiler and ninja are there; nvcc, which nothing here needs: {nvcc or 'none'}"


def shared_memory() -> str:
    total = shutil.disk_usage("/dev/shm").total
    if total < SHARED_MEMORY:
        raise NotWellError(f"{total / MIB:.0f} MiB: NCCL may fail; start the container with --shm-size=8g or --ipc=host")
    return f"{total / GIB:.0f} GiB"


def versions() -> str:
    said = [f"Python {sys.version.split()[0]}", f"CUDA {torch.version.cuda}"]
    for name in ("torch", "triton", "transformers", "deepspeed"):
        try:
            said.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            said.append(f"{name}: none")
    return ", ".join(said)


def together(rehearsed: bool) -> str:
    """Have one process a GPU add up numbers, as training does; raises where they do not within the time limit."""
    count = 2 if rehearsed else torch.cuda.device_count()
    words = [sys.executable, "-m", "tests.benchmarks.on_a_gpu", "--rank", "gloo" if rehearsed else "nccl"]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        with ExitStack() as stack:
            ranks = [stack.enter_context(process_group(words, variables, said)) for variables in environments(count)]
            deadline = time.monotonic() + MEETING_SECONDS
            try:
                statuses = [rank.wait(max(0.1, deadline - time.monotonic())) for rank in ranks]
            except subprocess.TimeoutExpired:
                raise NotWellError(f"{count} ranks did not add their numbers within {MEETING_SECONDS:.0f} s") from None
        said.seek(0)
        lines = said.read().strip().splitlines()
    if any(statuses):
        raise NotWellError(f"a rank ended with status {next(filter(None, statuses))}: {lines[-1] if lines else 'nothing said'}")
    return f"{count} ranks: {lines[-1]}"


def add_numbers(backend: str) -> None:
    """Add up numbers with the other ranks; the first says how fast."""
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    if backend == "nccl":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group(backend)
    numbers = torch.full((64 * MIB // 4,), float(rank + 1), device=device)
    torch.distributed.all_reduce(numbers)
    assert (numbers == count * (count + 1) / 2).all().item(), "the sum is wrong"
    seconds = []
    for _ in range(5):
        torch.distributed.barrier()
        began = time.perf_counter()
        torch.distributed.all_reduce(numbers)
        numbers[0].item()
        seconds.append(time.perf_counter() - began)
    if rank == 0:
        # As NCCL's own tests count it: what each link of a ring carries.
        speed = 2 * (count - 1) / count * numbers.nbytes / min(seconds) / 1e9
        print(f"right by {backend}" + (f", {speed:.1f} GB/s of bus bandwidth" if count > 1 else ""), flush=True)
    torch.distributed.destroy_process_group()


def run(words: Sequence[str], environment: dict[str, str], limit: float) -> int | None:
    """Run a command that says what it does itself; return its status, or None where it passed the limit (seconds)."""
    with process_group(words, environment) as process:
        try:
            return process.wait(max(1.0, limit))
        except subprocess.TimeoutExpired:
            return None


def tested(tests: Sequence[str], rehearsed: bool, out: Path, limit: float) -> bool:
    """Run the tests and publish how they went; return whether all passed."""
    workers = 1 if rehearsed else min(WORKERS, os.cpu_count() or 1)
    parallel = ["-n", str(workers)] if workers > 1 and find_spec("xdist") else []
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "tests.xml"
        words = [sys.executable, "-m", "pytest", *tests, *parallel, "-q", "-rfE", f"--junitxml={report}"]
        status = run(words, {"REHEARSE_GPU": "1"} if rehearsed else {}, limit)
        cases = ElementTree.parse(report).getroot().iter("testcase") if report.exists() else []
        kinds = {case.get("name"): next((child.tag for child in case if child.tag != "system-out"), "passed") for case in cases}
    bad = [name for name, kind in kinds.items() if kind in ("failure", "error")]
    words = [f"{list(kinds.values()).count(kind)} {kind}" for kind in ("passed", "failure", "error", "skipped")]
    ended = f"No end within {limit:.0f} s, and what ran was ended." if status is None else f"Exit status {status}."
    publish(out, "Tests", f"{' '.join(tests)}: {', '.join(words)}. {ended}", *([f"- {name}" for name in bad] or []))
    return status == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"by which all is over (default: {SECONDS:.0f})")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "on_a_gpu.md", help="a Markdown file, written anew")
    parser.add_argument("--tests", nargs="+", default=[TESTS], help="what pytest runs")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, small: figures say nothing")
    # The processes that it starts: what they hold of the devices ends with them.
    parser.add_argument("--look", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rank", choices=["nccl", "gloo"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        add_numbers(arguments.rank)
        return 0
    out, rehearsal = arguments.out.absolute(), ["--rehearse"] if arguments.rehearse else []
    if arguments.look:
        return 0 if look(arguments.rehearse, out) else 1
    missing = None if arguments.rehearse else no_gpu()
    if missing is not None:
        print(f"on_a_gpu: {missing}", file=sys.stderr)
        return 2
    end = time.monotonic() + arguments.seconds
    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    own = [sys.executable, "-m", "tests.benchmarks.on_a_gpu", "--out", str(out), *rehearsal]
    if run([*own, "--look"], {}, min(LOOK_SECONDS, arguments.seconds)) != 0:
        publish(out, "Not well", "What is marked so above, or is missing there, is to be mended first. Nothing was tested.")
        return 1
    passed = tested(arguments.tests, arguments.rehearse, out, TEST_SHARE * (end - time.monotonic()))
    left = end - time.monotonic()
    words = [sys.executable, "-m", "tests.benchmarks.gpu", "--out", str(out), "--seconds", str(max(0.0, left - ROW_SECONDS))]
    # Two ways alone: on a CPU those under ZeRO 3 compile for minutes.
    small = ["--quick", "--device", "cpu", "--ways", "zero1-compiled", "fair"] if arguments.rehearse else []
    status = run([*words, *small], {}, left)
    sentences = [
        f"{'All' if passed else 'NOT all'} tests passed.",
        f"Speed was measured{'' if status == 0 else ', but not to the end'}.",
    ]
    publish(out, "In short", " ".join([*sentences, f"This is {out}."]))
    return 0 if passed and status == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
