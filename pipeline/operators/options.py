"""Options that several operators have."""

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from pipeline.common.config import NonNegative, PositiveInt
from pipeline.operators.base import Option, Options, Origin

NOISE = Option(
    "noise",
    NonNegative,
    0.0,
    "nai: noise on new rows and columns; zero_pad: the small values; `symmetry`: its size. As a share of the tensor's own "
    "standard deviation (`split`: of the weight).",
    "The size of the noise or of the small values, as a share of a tensor's deviation.",
)
SYMMETRY = Option(
    "symmetry",
    Literal["none", "paired", "split"],
    "none",
    "Operators that copy: let copies learn different things and keep the function. `paired` adds +e to the column that reads "
    "one copy and -e to that of the other; `split` divides 1/C unevenly between them.",
    {
        "paired": "Copies get opposite noise on what reads them, which cancels out, so that they learn different things.",
        "split": "Copies share their output unevenly, so that they learn different things.",
    },
)
NORM_STATISTICS = Option(
    "norm_statistics",
    Literal["stock", "weighted"],
    "stock",
    "`weighted`: operators that copy: norms weigh every channel by 1/C, which is exact at any ratio, and turn to stock norms "
    "over `norm_anneal_steps` steps of training.",
    "Norms weigh each channel by 1 over its copies, and turn to stock norms over the first {norm_anneal_steps} steps.",
)
NORM_ANNEAL_STEPS = Option(
    "norm_anneal_steps",
    PositiveInt,
    1000,
    "Where `auto` took weighted norms they turn to stock norms over all steps that the model is trained for, if those are "
    "fewer.",
)
COPYING = (SYMMETRY, NOISE)
WEIGHTED = (NORM_STATISTICS, NORM_ANNEAL_STEPS)
MAP = Option(
    "map",
    Literal["balanced", "random"],
    "balanced",
    "fpi, aki: which source index a new one copies: in turn, or drawn uniformly (bert2BERT eq. 5-6).",
    {"balanced": "Copies are dealt out in turn.", "random": "Copies are drawn at random."},
)
REPEAT_SCALE = Option(
    "repeat_scale",
    Annotated[float, Field(gt=0, allow_inf_nan=False)],
    1.0,
    "depth: stack, midas, list: what layers that repeat or average others add to the residual stream is multiplied by it.",
    "Repeated layers add {repeat_scale} times what they were trained to add, so that they change less of what passes.",
)


def scaled_repeats(origins: list[Origin], options: Options) -> list[Origin]:
    """Return the origins with `repeat_scale` on the layers that are added."""
    return [replace(origin, scale=options["repeat_scale"]) if origin.added else origin for origin in origins]
