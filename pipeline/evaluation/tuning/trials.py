"""One training of a task, by Hugging Face's Trainer."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import EvalPrediction, PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from pipeline.common.errors import UserError
from pipeline.common.progress import Meter
from pipeline.evaluation.tuning.options import TuningOptions
from pipeline.evaluation.tuning.task import Problem

WEIGHT_DECAY = 0.01
WARMUP = 0.1
"""The share of the steps over which the learning rate rises; then it falls linearly (Devlin et al. 2019)."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A point of the grid."""

    learning_rate: float
    batch_size: int
    """Over all ranks."""
    epochs: int


def ranks() -> int:
    """How many processes train together, as torchrun and the deepspeed launcher tell."""
    return int(os.environ.get("WORLD_SIZE", 1))


def computed_in(options: TuningOptions) -> str:
    """The dtype of the computations."""
    if options.dtype is not None:
        return options.dtype
    return "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"


def train(problem: Problem, trial: Trial, seed: int, options: TuningOptions, name: str) -> list[dict[str, float]]:
    """Train from the pre-trained weights and return the metrics behind each epoch, the same on all ranks.

    The seed sets the head, the order and dropout. Progress is shown under `name`. Raises UserError where the ranks
    cannot share out the batch.
    """
    if trial.batch_size % ranks():
        raise UserError(f"--tuning_batch_sizes: {trial.batch_size} is no multiple of the {ranks()} ranks; name one that is")
    with tempfile.TemporaryDirectory() as folder, _deterministic():
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=trial.epochs,
            per_device_train_batch_size=trial.batch_size // ranks(),
            per_device_eval_batch_size=max(1, 2 * trial.batch_size // ranks()),
            learning_rate=trial.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=WARMUP,
            weight_decay=WEIGHT_DECAY,
            seed=seed,
            bf16=computed_in(options) == "bfloat16",
            use_cpu=not torch.accelerator.is_available(),
            dataloader_pin_memory=torch.accelerator.is_available(),
            eval_strategy="epoch",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            ddp_find_unused_parameters=False,
        )
        scores: list[dict[str, float]] = []

        def score(outcome: EvalPrediction) -> dict[str, float]:
            scores.append(problem.score(outcome))
            return scores[-1]

        set_seed(seed)
        trainer = Trainer(
            model=problem.model(options.dropout),
            args=arguments,
            train_dataset=problem.train,
            eval_dataset=problem.dev,
            data_collator=problem.collate,
            compute_metrics=score,
        )
        trainer.remove_callback(PrinterCallback)
        # Of the part that is scored twice as many examples go into a batch.
        batches = -(-len(problem.train) // trial.batch_size) + -(-len(problem.dev) // (2 * trial.batch_size))
        with Meter(name, trial.epochs * batches, "batches") as meter:
            trainer.add_callback(_Counted(meter, scores, trial.epochs))
            trainer.train()
    return scores


class _Counted(TrainerCallback):
    """Tells a meter of each batch, trained on or scored."""

    def __init__(self, meter: Meter, scores: list[dict[str, float]], epochs: int) -> None:
        self._meter, self._scores, self._epochs = meter, scores, epochs

    def on_step_end(self, *_: object, **__: object) -> None:
        self._meter.note = f"epoch {len(self._scores) + 1} of {self._epochs}"
        self._meter.advance(1)

    def on_prediction_step(self, *_: object, **__: object) -> None:
        self._meter.note = f"scoring epoch {len(self._scores) + 1} of {self._epochs}"
        self._meter.advance(1)


@contextmanager
def _deterministic() -> Iterator[None]:
    """Have torch take the kernels that add in a fixed order, where it has such."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
