"""Run directories with made-up records, in the shape of real ones."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.common.files import write_json
from pipeline.evaluation.scores import Score, record
from pipeline.flops.counts import PARTS, StepFlops
from pipeline.flops.ledger import Ledger
from pipeline.growth.certificate import certify
from pipeline.recipe import Recipe
from pipeline.runs import JsonLines, RunPaths
from pipeline.runs.records import read_certificates
from tests.pipeline.growth.models import plan_of, small_model

TOKENS = 256
"""Of one step."""


@dataclass
class Made:
    """A run to make up: its source costs 1 GFLOP a step, everything after it 4."""

    path: Path
    seed: int = 1
    scratch: bool = False
    given: str | None = None
    """The source's path, where it is not trained here."""
    inherited: Ledger | None = None
    source_steps: int = 20
    steps: int = 60
    """After the source, half of them in sub-models; those of a run from scratch are its only stage."""
    recorded: int | None = None
    """Steps on record; all of them where not given, and then there is a summary."""
    nan_at: int | None = None
    lost: int = 0
    half_a_line: bool = False
    growths: int = 1
    changes: dict[str, Any] = field(default_factory=dict)

    def loss(self, step: int, of_stage: int) -> float:
        """A curve that falls from 8 for a model that begins, and from 5.5 for one that was grown."""
        small = not self.given and step <= self.source_steps
        start = 8.0 if self.scratch or small else 5.5
        return 4.0 + (start - 4.0) * math.exp(-of_stage / 30) + 0.003 * self.seed

    @property
    def recipe(self) -> Recipe:
        """Its recipe."""
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
        model = {"family": "gpt2"} | dict(zip(names, (64, 5, 8) if self.scratch else (32, 3, 4), strict=True))
        source = {"path": self.given} if self.given else {"model": model}
        half = self.steps // 2
        stages = [{"name": "submodels", "submodel_layers": 1, "steps": half}, {"name": "full", "steps": self.steps - half}]
        if self.scratch:
            stages = [{"name": "full", "steps": self.steps}]
        elif not self.given:
            source["steps"] = self.source_steps
        if self.growths == 2:
            stages.insert(1, {"name": "deeper", "grow": {"num_hidden_layers": 7}})
        content = {
            "run_dir": str(self.path),
            "seed": self.seed,
            "data": {"shards": "somewhere", "sequence_length": 32},
            "source": source,
            "target": {} if self.scratch else {"hidden_size": 64, "num_hidden_layers": 5},
            "growth": {"width": "nai", "noise": 0.02, "depth": "last_layer"},
            "stages": stages,
        }
        return Recipe.model_validate(content | self.changes)

    def write(self) -> Path:
        """Write the directory and return it."""
        paths = RunPaths(self.path)
        self.path.mkdir(parents=True)
        paths.recipe.write_text(self.recipe.to_yaml())
        paths.certificates.mkdir()
        write_json(paths.ds_config, {"train_batch_size": 8, "zero_optimization": {"stage": 3}})
        stages = [] if self.scratch or self.given else ["source"] * self.source_steps
        half = self.steps // 2
        stages += ["full"] * self.steps if self.scratch else ["submodels"] * half + ["full"] * (self.steps - half)
        steps = {name: stages.count(name) for name in dict.fromkeys(stages)}
        write_json(
            paths.data, {"prepared": "somewhere", "fingerprint": "same", "weights": {"32": {"web": 1.0}}, "steps": steps}
        )
        metrics, evaluations, ledger = JsonLines(paths.metrics, dict), JsonLines(paths.evaluations, dict), Ledger()
        if self.given:
            ledger.inherit(self.given, self.inherited)
        recorded = len(stages) if self.recorded is None else self.recorded
        if recorded and "source" not in stages:
            evaluations.append(self._evaluation(0, "grown", 8.3 if self.scratch else 5.5))
        of_stage = 0
        for step, stage in enumerate(stages[:recorded], 1):
            of_stage += 1
            metrics.append(self._step(step, stage, of_stage, ledger))
            last_of_source = stage == "source" and stages[step : step + 1] != ["source"]
            if step % 5 == 0 or last_of_source:
                evaluations.append(self._evaluation(step, stage, self.loss(step, of_stage)))
            if last_of_source:
                of_stage = 0
                evaluations.append(self._evaluation(step, "grown", 5.5))
            if self.growths == 2 and stage == "submodels" and stages[step] == "full":
                evaluations.append(self._evaluation(step, "deeper", 5.4))
        for number in range(self.lost):
            JsonLines(paths.lost, dict).append(self._step(recorded + 1 + number, "full", 1, Ledger()))
        if self.half_a_line:
            with open(paths.metrics, "a", encoding="utf-8") as file:
                file.write('{"step": 99, "sta')
        if recorded > stages.count("source"):
            self._certify(paths)
        if self.recorded is None:
            ledger.wasted = 4 * 10**9 * self.lost
            write_json(paths.summary, self._summary(paths, recorded, ledger))
        return self.path

    def _summary(self, paths: RunPaths, steps: int, ledger: Ledger) -> dict[str, Any]:
        return {
            "family": "gpt2",
            "growths": read_certificates(paths),
            "losses": {"unigram": 7.0, "source": 6.0, "grown": 6.1, "final": 4.0},
            **{"steps": steps, "tokens": TOKENS * steps, "seconds": steps / 2, "tokens_per_second": 2.0 * TOKENS},
            "lengths": {"full": ["steps", self.steps]},
            "flops": ledger.to_json(),
            "speeds": {stage: {"tokens_per_second": 512.0, "tflops": 0.008, "mfu": 0.3} for stage in ledger.stages},
            "peak": "1 TFLOP/s a rank in float32, by its data sheet",
            "peak_memory": [{"host_gib": 1.5}] * 2,
            "paths": {"model": str(paths.model)},
        }

    def _step(self, step: int, stage: str, of_stage: int, ledger: Ledger) -> dict[str, Any]:
        flops = 10**9 if stage == "source" else 4 * 10**9
        ledger.add(stage, _flops(ffn=flops // 2, head=flops - flops // 2))
        return {
            **{"step": step, "stage": stage, "submodel_layers": None, "tokens": TOKENS * step},
            "loss": math.nan if step == self.nan_at else self.loss(step, of_stage) + 0.05 * math.sin(step),
            **{"lr": 1e-3, "grad_norm": 1.0, "seconds": 0.5, "mfu": 0.3, "skipped": step == self.nan_at},
            **{"flops_model": flops, "flops_executed": flops, "flops_total": ledger.total},
        }

    @staticmethod
    def _evaluation(step: int, stage: str, loss: float) -> dict[str, Any]:
        return {"step": step, "stage": stage, "loss": loss, "perplexity": math.exp(loss), "accuracy": 0.2, "scored_tokens": 100}

    def _certify(self, paths: RunPaths) -> None:
        model = small_model("gpt2")
        moved = 0.0 if self.scratch else 0.1
        measured = {"source_loss": 6.0, "grown_loss": 6.0 + moved, "loss_gap": moved, "max_logit_difference": 2 * moved}
        measured |= {"dtype": "float64", "scored_tokens": 100}
        trained = measured | {"dtype": "bfloat16", "max_logit": 4.0}
        trained |= {"rounding": {"loss": -0.0021, "max_logit_difference": 0.03}}
        targets = [{}] if self.scratch else [{"hidden_size": 48, "num_hidden_layers": 5}, {"num_hidden_layers": 4}]
        for number, target in enumerate(targets[: self.growths], 1):
            plan, _ = plan_of(model, target, {} if self.scratch else {"width": "nai", "noise": 0.02, "depth": "last_layer"})
            write_json(paths.certificate(number), certify(plan, "a/source", "d1g35t", measured, trained))


def _flops(**parts: int) -> StepFlops:
    return StepFlops(*[dict.fromkeys(PARTS, 0) | parts for _ in range(2)])


def with_scores(path: Path) -> Path:
    """Record scores of two tasks and two models in a run, and return it."""
    scores = []
    for task, metrics in (("wikitext2", {"perplexity": 31.0, "loss": 3.4}), ("sst2", {"accuracy": 0.81})):
        for stage, step, better in (("source", 20, 0.0), ("full", 80, 0.1)):
            values = {name: value - better if task == "wikitext2" else value + better for name, value in metrics.items()}
            data = {"source": f"{task}/test.txt", "digest": "f00d", "examples": 1234, "note": "a note"}
            deviations = None if task == "wikitext2" else {"accuracy": 0.012}
            scores.append(
                Score(f"{path}/{stage}", f"{stage}-digest", stage, step, task, values, deviations, data, {"window": 128}, 1.0)
            )
    record(RunPaths(path).scores, scores)
    return path


def known_source() -> Ledger:
    """A ledger of a source that cost 20 GFLOP and lost 3 more."""
    ledger = Ledger(wasted=3 * 10**9)
    ledger.add("source", _flops(ffn=20 * 10**9))
    return ledger


def records(path: Path) -> list[dict[str, Any]]:
    """Return a file's JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
