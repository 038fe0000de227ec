"""What can be chosen about fine-tuning, and its flags."""

import argparse
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipeline.common.config import Fraction, NonNegativeInt, PositiveInt, StrictModel, validate
from pipeline.recipe.models import Positive


class TuningOptions(StrictModel):
    """The grid, the seeds, and what shrinks a task; None stands for the task's own."""

    learning_rates: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None
    batch_sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | None = None
    """Examples of a step over all ranks."""
    epochs: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | None = None
    """Each is a training of its own, since the learning rate falls to zero over it."""
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
    ds_config: Path | None = None
    """Refused where it is given: models are not partitioned here."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of fine-tuning to a command line."""
    group = parser.add_argument_group("fine-tuning", "(defaults: bert2BERT's grid, the best point of it with three seeds)")
    group.add_argument("--learning_rates", type=float, nargs="+", metavar="LR", help="to choose from (5e-6 1e-5 2e-5 3e-5)")
    group.add_argument("--tuning_batch_sizes", type=int, nargs="+", metavar="N", help="over all ranks, to choose from (32)")
    group.add_argument("--epochs", type=int, nargs="+", metavar="N", help="to choose from, each a training (4 5 10)")
    group.add_argument("--seeds", type=int, nargs="+", metavar="N", help="of the head and the order of examples (1 2 3)")
    group.add_argument("--max_train", type=int, metavar="N", help="examples to train on (all)")
    group.add_argument("--max_eval", type=int, metavar="N", help="examples to score, of each part (all)")
    group.add_argument("--max_length", type=int, metavar="N", help="tokens of an input (128; squad: 384)")
    group.add_argument("--tuning_dropout", type=float, metavar="P", help="(the model's own)")
    group.add_argument(
        "--tuning_dtype", choices=["float32", "bfloat16"], help="of the computations (bfloat16 on a GPU that has it)"
    )


def options_of(arguments: argparse.Namespace) -> TuningOptions:
    """Return the options that a command line spells, its `ds_config` among them where it has one; raises UserError."""
    content = {
        "learning_rates": arguments.learning_rates,
        "batch_sizes": arguments.tuning_batch_sizes,
        "epochs": arguments.epochs,
        "seeds": arguments.seeds,
        "max_train": arguments.max_train,
        "max_eval": arguments.max_eval,
        "max_length": arguments.max_length,
        "dropout": arguments.tuning_dropout,
        "dtype": arguments.tuning_dtype,
        "ds_config": getattr(arguments, "ds_config", None),
    }
    given = {key: value for key, value in content.items() if value is not None}
    return validate(TuningOptions, given, "command line")
