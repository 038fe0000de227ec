"""The benchmarks: `python -m tests.benchmarks --out DIR [--parts PART ...] [--text GLOB ...] [--quick]`.

Runs the parts one after the other, each in a process of its own with a time limit, and writes DIR/PART.md and
DIR/machine.md. Figures of different machines, or of a busy one, say nothing of each other; the ratios within one do.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

from data_prep.plans.drafting import expand
from pipeline.common.errors import UserError
from pipeline.common.files import write_atomically
from tests.benchmarks.measuring import GIB, ROOT, add_text, run_within, table

LIMITS = {
    "growth": 1800,
    "data_prep": 900,
    "training": 1800,
    "start": 1200,
    "scaling": 900,
    "gpu": 1800,
    "paper": 180,
    "width_rates": 5400,
}
"""Seconds that each part may take."""
OF_TEXT = ("data_prep", "scaling", "width_rates")
"""Parts that read text."""


def machine() -> str:
    """Return what the figures were measured on, as Markdown."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    rows = [
        ("processor", f"{model}, {len(os.sched_getaffinity(0))} cores"),
        ("memory", f"{psutil.virtual_memory().total / GIB:.0f} GiB"),
        ("GPU", gpu),
        ("system", f"{platform.system()} {platform.release()}, Python {platform.python_version()}"),
        *((name, version(name)) for name in ("torch", "deepspeed", "transformers")),
        ("commit", commit),
        ("date", f"{datetime.now(UTC):%Y-%m-%d}"),
        ("load average at the start", f"{os.getloadavg()[0]:.1f}"),
    ]
    return "## Machine\n\n" + table(["", ""], rows) + "\n"


def main() -> int:
    """Run the parts; return 1 where one failed, which its file says too."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a directory for the parts' Markdown files")
    parser.add_argument("--parts", nargs="+", choices=LIMITS, default=list(LIMITS))
    add_text(parser)
    parser.add_argument("--quick", action="store_true", help="small sizes, whose figures say nothing")
    arguments = parser.parse_args()
    try:
        expand(arguments.text, "--text", [])
    except UserError as error:
        parser.error(str(error))
    out = arguments.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "machine.md", machine())
    status = 0
    for part in arguments.parts:
        file, began = out / f"{part}.md", time.perf_counter()
        file.unlink(missing_ok=True)
        words = [sys.executable, "-m", f"tests.benchmarks.{part}", "--out", file, *(["--quick"] if arguments.quick else [])]
        if arguments.text and part in OF_TEXT:
            words += ["--text", *map(os.path.abspath, arguments.text)]
        said = "done"
        try:
            run_within(words, LIMITS[part])
        except RuntimeError as error:
            status, said = 1, "failed"
            # What was measured by then stays.
            with file.open("a", encoding="utf-8") as page:
                page.write(f"## {part}: failed\n\nThe rest of this part was not measured:\n\n```\n{error}\n```\n")
        print(f"{part}: {said} in {time.perf_counter() - began:.0f} s, {file}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
