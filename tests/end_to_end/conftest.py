"""Whole runs, as a person starts them, on a toy corpus and in fp32."""

import json
import os
import runpy
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from data_prep.manifest import PreparedData
from pipeline.training import distributed
from tests.forked import Program
from tests.ranks import environments, free_port
from tests.typed import typed

ROOT = Path(__file__).parents[2]
FP32 = {"zero_optimization": {"stage": 3}}


@dataclass
class Finished:
    """A run that has ended."""

    status: int
    output: str
    error: str
    run_dir: Path

    @property
    def metrics(self) -> list[dict]:
        """The run's steps."""
        return [json.loads(line) for line in (self.run_dir / "metrics.jsonl").read_text().splitlines()]

    @property
    def evaluations(self) -> list[dict]:
        """The run's held-out losses."""
        return [json.loads(line) for line in (self.run_dir / "eval.jsonl").read_text().splitlines()]

    @property
    def losses(self) -> list[float]:
        """The loss of each step."""
        return [record["loss"] for record in self.metrics]

    @property
    def summary(self) -> dict:
        """The run's summary.json."""
        return json.loads((self.run_dir / "summary.json").read_text())


def _environment(accelerator: str) -> dict[str, str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": accelerator}
    environment.pop("RANK", None)
    return environment


def run_dir_of(recipe: Path, overrides: Sequence[str]) -> Path:
    """The directory of a run by its command line."""
    named = [word.removeprefix("run_dir=") for word in overrides if word.startswith("run_dir=")]
    return Path(named[0] if named else yaml.safe_load(recipe.read_text(encoding="utf-8"))["run_dir"])


class Launched:
    """A run under way; everything it started is killed at the end of the test, however that ends."""

    def __init__(self, process: subprocess.Popen[str] | Program, run_dir: Path) -> None:
        self.process = process
        self.run_dir = run_dir

    def wait(self, timeout: float = 180) -> Finished:
        """Wait for the end."""
        output, error = self.process.communicate(timeout=timeout)
        return Finished(self.process.returncode, output, error, self.run_dir)

    def finish(self, timeout: float = 180) -> Finished:
        """Wait for the end, which is to be that of a run that went well."""
        finished = self.wait(timeout)
        assert finished.status == 0, finished.error
        return finished

    def refused(self, *words: str) -> Finished:
        """Wait for the end, which is to be a refusal in one sentence with these words."""
        finished = self.wait()
        assert (finished.status, finished.error.count("\n")) == (2, 1), finished.error
        assert all(some in finished.error for some in words), finished.error
        return finished

    def wait_for_step(self, step: int, timeout: float = 120) -> None:
        """Wait until a step is recorded."""
        deadline = time.monotonic() + timeout
        path = self.run_dir / "metrics.jsonl"
        while not path.exists() or path.read_text().count("\n") < step:
            assert self.process.poll() is None, "".join(self.process.communicate())
            assert time.monotonic() < deadline, f"step {step} did not come within {timeout} s"
            time.sleep(0.02)

    def kill(self) -> None:
        """End the launcher and every rank at once, as a power cut would."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.process.communicate()


class Launcher:
    """Starts runs, and ends them all at the end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._started: list[Launched] = []

    def __call__(
        self,
        recipe: Path,
        *overrides: str,
        ranks: int = 0,
        ds_config: dict = FP32,
        deepspeed: bool = False,
        file_size: int | None = None,
        script: Path = Path("launch/pretrain.py"),
    ) -> Launched:
        """Start launch/pretrain.py, or a `script` in its place, with a recipe and overrides; 0 ranks: as no launcher would.

        The ranks are forked (tests/forked.py), or are those of DeepSpeed's own launcher. `file_size` bytes fit into a file.
        """
        path = self._directory / f"ds-{len(self._started)}.json"
        path.write_text(json.dumps(ds_config))
        words = [str(script), "--ds_config", str(path), "--recipe", str(recipe), *overrides]
        run_dir = run_dir_of(recipe, overrides)
        if deepspeed:
            return self.command(["deepspeed", "--num_accelerators", str(ranks), *words], run_dir)
        return self.script(words, run_dir, ranks, file_size)

    def script(self, words: list[str], run_dir: Path, ranks: int = 0, file_size: int | None = None) -> Launched:
        """Start a Python script, alone or on several ranks."""
        process = Program(words, ROOT, _environment("cpu"), environments(ranks), file_size)
        self._started.append(Launched(process, run_dir))
        return self._started[-1]

    def command(self, words: list[str], run_dir: Path, accelerator: str = "cpu") -> Launched:
        """Start a command line as it is typed, `deepspeed` on a port of its own."""
        if words[0] == "deepspeed":
            words = ["deepspeed", "--master_port", str(free_port()), *words[1:]]
        pipe, environment = subprocess.PIPE, _environment(accelerator)
        process = subprocess.Popen(
            typed(words), cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )
        self._started.append(Launched(process, run_dir))
        return self._started[-1]

    def end(self) -> None:
        """Kill what is still there."""
        for run in self._started:
            run.kill()


@pytest.fixture(scope="module")
def programs() -> Iterator[Callable[[str], Callable[[], int]]]:
    """Return the entry point of a script of launch/, to be called in this process: a status and no launcher."""

    def main_of(name: str) -> Callable[[], int]:
        return runpy.run_path(str(ROOT / "launch" / f"{name}.py"))["main"]

    environment = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    linear = torch.nn.functional.linear
    yield main_of
    # ZeRO-3 puts its own in place, for the process.
    torch.nn.functional.linear = linear
    distributed.leave()
    os.environ.clear()
    os.environ.update(environment)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    # Of a run that is asked to stop: a test that is interrupted would take it for its own.
    signal.set_wakeup_fd(-1)


@pytest.fixture(scope="session")
def launch(tmp_path_factory):
    """Start launch/pretrain.py: `launch(recipe, *overrides, ranks=...)`."""
    launcher = Launcher(tmp_path_factory.mktemp("ds_config"))
    yield launcher
    launcher.end()


def latest(run_dir) -> str:
    """The tag of a run's newest checkpoint."""
    return (run_dir / "checkpoints" / "latest").read_text().strip()


def wait_for(condition, run, timeout: float = 120) -> None:
    """Wait until something is so while a run goes on."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert run.process.poll() is None, "".join(run.process.communicate())
        assert time.monotonic() < deadline
        time.sleep(0.001)


def write_recipe(directory: Path, prepared: PreparedData, family: str = "gpt2", **changes: object) -> Path:
    """Write a toy recipe into `directory`: 8 steps of a source, 6 of sub-models, 8 of the full model."""
    content = {
        "run_dir": str(directory / "run"),
        "seed": 3,
        "train_batch_size": 8,
        "train_micro_batch_size_per_gpu": 4,
        "data": {"shards": str(prepared.directory), "sequence_length": 32},
        "source": {
            "model": {"family": family, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
            "steps": 8,
        },
        "target": {"hidden_size": 48, "num_hidden_layers": 4},
        "growth": {"width": "fpi", "depth": "stack"},
        "stages": [{"name": "submodels", "submodel_layers": 2, "steps": 6}, {"name": "full", "steps": 8}],
        "optimizer": {"lr": 0.003},
        "schedule": {"name": "cosine", "warmup_steps": 4},
        "evaluation": {"every": 100, "windows": 9},
        "checkpointing": {"every": 5},
    }
    path = directory / "recipe.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return path


@pytest.fixture
def recipe(prepared, tmp_path) -> Callable[..., Path]:
    """Write the toy recipe into the test's own folder."""
    return partial(write_recipe, tmp_path, prepared)


@pytest.fixture(scope="session")
def undisturbed(launch, prepared, tmp_path_factory) -> Finished:
    """A run of the toy recipe on one rank, undisturbed. Tests that go on in it copy it."""
    return launch(write_recipe(tmp_path_factory.mktemp("undisturbed"), prepared)).finish()
