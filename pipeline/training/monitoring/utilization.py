"""How fast a run goes, against what its devices could do."""

import resource
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import torch
from deepspeed.accelerator import get_accelerator

from pipeline.flops.peaks import TERA, Peak, find_peak
from pipeline.runs.records import StepRecord
from pipeline.training import distributed


@dataclass(frozen=True, slots=True)
class Speed:
    """What some steps came to in a second."""

    tokens_per_second: float
    tflops: float
    """Model FLOPs, all ranks together, in TFLOP/s."""
    mfu: float
    """Model FLOPs as a share of the devices' peak."""

    @property
    def words(self) -> str:
        """The three for a line of progress."""
        return f"{self.tokens_per_second / 1e3:.1f}k tokens/s, {tera(self.tflops)} TFLOP/s, MFU {self.mfu:.1%}"


def tera(tflops: float) -> str:
    """A number of TFLOP/s to three digits, without an exponent."""
    return f"{tflops:.0f}" if tflops >= 100 else f"{tflops:.2g}" if tflops < 1 else f"{tflops:.3g}"


@dataclass(frozen=True, slots=True)
class Device:
    """What every rank computes on, and its peak in the run's precision."""

    name: str
    dtype: torch.dtype
    peak: Peak
    ranks: int = 1
    """Those that take a step together."""

    @classmethod
    def here(cls, dtype: torch.dtype, given_tflops: float | None) -> "Device":
        """This rank's device, its peak looked up or measured by this rank alone."""
        device = distributed.device()
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"this {device.type.upper()}"
        return cls(name, dtype, find_peak(device, dtype, given_tflops))

    @classmethod
    def of_all_ranks(cls, dtype: torch.dtype, given_tflops: float | None) -> "Device":
        """That of this run's ranks; a collective call, so that ranks which share a CPU measure at the same time."""
        ranks = distributed.world_size()
        torch.distributed.barrier()
        here = cls.here(dtype, given_tflops)
        (together,) = distributed.total(here.peak.flops_per_second)
        return replace(here, peak=Peak(together / ranks, here.peak.origin), ranks=ranks)

    def speed(self, model_flops: int, tokens: int, seconds: float) -> Speed:
        """Return what `tokens` and `model_flops` in `seconds` come to."""
        mfu = self.peak.utilization(model_flops, seconds, self.ranks)
        return Speed(tokens / seconds, model_flops / seconds / TERA, mfu)

    @property
    def words(self) -> str:
        """The peak, and where the figure comes from."""
        origin = {
            "data sheet": f"{self.name}'s data sheet",
            "measured": f"matrix products measured on {self.name}",
            "recipe": "the recipe's flops.peak_tflops",
        }[self.peak.origin]
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{tera(self.peak.flops_per_second / TERA)} TFLOP/s a rank in {dtype}, by {origin}"


def speeds(records: Iterable[StepRecord]) -> dict[str, dict[str, float]]:
    """Return every stage's speed from what metrics.jsonl says of its steps, those behind a gap left out, as `Speed` has it.

    The MFU is the steps' own, weighed by their seconds: a run may have gone on with other devices or more of them.
    """
    seconds: defaultdict[str, float] = defaultdict(float)
    flops: Counter[str] = Counter()
    used: defaultdict[str, float] = defaultdict(float)
    tokens: Counter[str] = Counter()
    before = 0
    step = 0
    for record in records:
        # What a step that comes behind a gap has of the tokens is not known.
        behind_a_gap, step = record["step"] != step + 1, record["step"]
        if behind_a_gap:
            before = record["tokens"]
            continue
        stage, took = record["stage"], record["seconds"]
        seconds[stage] += took
        flops[stage] += record["flops_model"]
        used[stage] += (record["mfu"] or 0.0) * took
        tokens[stage] += record["tokens"] - before
        before = record["tokens"]
    return {
        stage: asdict(Speed(tokens[stage] / took, flops[stage] / took / TERA, used[stage] / took))
        for stage, took in seconds.items()
    }


def peak_memory() -> dict[str, float]:
    """Return this rank's peak resident memory, and its accelerator's where there is one, in GiB."""
    # Linux counts ru_maxrss in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {"host_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30}
    if get_accelerator().device_name() != "cpu":
        peaks["device_gib"] = get_accelerator().max_memory_allocated() / 2**30
    return peaks
