"""What a run writes down of its steps and evaluations, and shows of them."""

import logging
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation.rows import perplexity
from pipeline.evaluation.scores import Score
from pipeline.runs import JsonLines, StepLines
from pipeline.runs.records import EvaluationRecord, ScoreRecord, StepRecord
from pipeline.training import distributed
from pipeline.training.loop.evaluate import HeldOut
from pipeline.training.monitoring.monitors import Monitors
from pipeline.training.monitoring.progress import Progress
from pipeline.training.monitoring.utilization import Device, Speed

logger = logging.getLogger(__name__)

_KEYS = tuple(StepRecord.__annotations__)
"""Of metrics.jsonl, in their order."""


@dataclass
class Records:
    """A run's records, written on rank 0, its monitors and its progress."""

    metrics: StepLines
    evaluations: JsonLines[EvaluationRecord]
    scores: JsonLines[ScoreRecord]
    progress: Progress
    device: Device
    monitors: Monitors
    """Those of rank 0; on the others there are none."""

    def step(self, known: dict[str, Any], speed: Speed) -> None:
        """Record a step by what is known of it, on rank 0."""
        if distributed.rank() == 0:
            record = {key: known[key] for key in _KEYS if key in known}
            self.metrics.append(record)
            self.monitors.step(record, speed)

    def evaluation(self, step: int, stage: str, heldout: HeldOut) -> None:
        """Record one evaluation, on rank 0."""
        record = {
            "step": step,
            "stage": stage,
            "loss": heldout.loss,
            "perplexity": perplexity(heldout.loss),
            "accuracy": heldout.accuracy,
            "scored_tokens": heldout.tokens,
        }
        line = f"{stage}: step {step}, held-out loss {heldout.loss:.4f}, perplexity {perplexity(heldout.loss):.2f}, "
        line += f"accuracy {heldout.accuracy:.1%}"
        if heldout.pair_loss is not None:
            record |= {"pair_loss": heldout.pair_loss, "pair_accuracy": heldout.pair_accuracy}
            line += f"; of pairs: loss {heldout.pair_loss:.4f}, accuracy {heldout.pair_accuracy:.1%}"
        if distributed.rank() == 0:
            self.evaluations.append(record)
            self.monitors.evaluation(record)
        logger.info(line)

    def scored(self, scores: list[Score]) -> None:
        """Record what tasks made of the model, on rank 0."""
        for score in scores:
            if distributed.rank() == 0:
                self.scores.append(score.to_json())
            metrics = ", ".join(f"{name} {value:.4g}" for name, value in score.metrics.items())
            logger.info(f"{score.stage}: step {score.step}, {score.task}: {metrics}")

    def flush(self) -> None:
        """Have all that was recorded on disk, on rank 0."""
        if distributed.rank() == 0:
            self.metrics.flush()
            self.evaluations.flush()
            if self.scores.path.exists():
                self.scores.flush()

    def close(self) -> None:
        """Let go of the terminal, and write what is still in memory."""
        self.progress.close()
        self.flush()
        self.monitors.close()
