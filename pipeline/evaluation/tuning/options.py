"""What can be chosen about fine-tuning, and its flags."""

import argparse
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.common.config import Fraction, NonNegativeInt, PositiveInt, StrictModel, validate
from pipeline.recipe.models import Positive


class TuningOptions(StrictModel):
    """The grid, the seeds, and what shrinks a task; None stands for the task's own."""

    learning_rates: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None
    batch_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | None = None
    """Examples of a step over all ranks."""
    epochs: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | None = None
    """Each is a separate training, since the learning rate falls to zero over it."""
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (1, 2, 3)
    """The grid is searched with the first; the best of it is repeated with the others."""
    max_train: PositiveInt | None = None
    """Training examples, the same ones for all seeds."""
    max_eval: PositiveInt | None = None
    """Examples of each development part."""
    max_length: PositiveInt | None = None
    """Tokens of an input; the model's positions where those are fewer and nothing is given."""
    dropout: Fraction | None = None
    """The model's own where not given."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the computations; weights and optimizer are float32. bfloat16 on a GPU that has it, else float32."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of fine-tuning to a command line; their values are `tuning_` and the option's name."""
    group = parser.add_argument_group("fine-tuning", "(defaults: bert2BERT's grid, the best point of it with three seeds)")

    def add(flag: str, option: str, text: str, **settings: Any) -> None:
        group.add_argument(flag, dest=f"tuning_{option}", help=text, **settings)

    several: dict[str, Any] = {"type": int, "nargs": "+", "metavar": "N"}
    add("--learning_rates", "learning_rates", "to choose from (5e-6 1e-5 2e-5 3e-5)", type=float, nargs="+", metavar="LR")
    add("--tuning_batch_sizes", "batch_sizes", "over all ranks, to choose from (32)", **several)
    add("--epochs", "epochs", "to choose from, each a training (4 5 10)", **several)
    add("--seeds", "seeds", "of the head and the order of examples (1 2 3)", **several)
    add("--max_train", "max_train", "examples to train on (all)", type=int, metavar="N")
    add("--max_eval", "max_eval", "examples to score, of each part (all)", type=int, metavar="N")
    add("--max_length", "max_length", "tokens of an input (128; squad: 384)", type=int, metavar="N")
    add("--tuning_dropout", "dropout", "(the model's own)", type=float, metavar="P")
    add("--tuning_dtype", "dtype", "of the computations (bfloat16 on a GPU that has it)", choices=["float32", "bfloat16"])


def options_of(arguments: argparse.Namespace) -> TuningOptions:
    """Return the options that a command line spells; raises UserError."""
    content = {name: getattr(arguments, f"tuning_{name}") for name in TuningOptions.model_fields}
    return validate(TuningOptions, {name: value for name, value in content.items() if value is not None}, "command line")
