"""Options of making a dense model into a mixture of experts; they stand in the section of operators."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.common.config import Fraction
from pipeline.operators.base import Option

ROUTER_INIT = Option(
    "router_init",
    Literal["normal", "zero"],
    "normal",
    "A dense source made into a mixture: what its router starts as. `zero` gives all experts equal gates.",
    {"zero": "The router starts at zero, so that all experts have equal gates."},
)
ROUTER_STD = Option(
    "router_std",
    Annotated[float, Field(gt=0, allow_inf_nan=False)] | None,
    None,
    "The same: the standard deviation of a router that starts at random. Where not given: `initializer_range` of the model.",
    "The router starts at random with a standard deviation of {router_std}.",
)
PIECE_ROUTING = Option(
    "piece_routing",
    Literal["grouped", "independent"],
    "grouped",
    "The same, where its FFN is cut into parts: `grouped` has all parts of a copy chosen together (virtual groups, He et al. "
    "2024), which keeps the function; `independent` gives each part a row of the router by itself, which does not.",
    {"independent": "Parts of one FFN are chosen each by itself, so that a token may miss some of them."},
)
SHARED_EXPERT = Option(
    "shared_expert",
    Literal["new", "ffn"],
    "new",
    "The same, of a class with an expert that every token goes through: `new` adds one that writes nothing at first; with "
    "`ffn` it has the first `target.shared_expert_intermediate_size` units of the FFN, and the other experts have the rest.",
    {"ffn": "The expert that every token goes through has some of the FFN's units."},
)
DROP_UPCYCLING = Option(
    "drop_upcycling",
    Fraction,
    0.0,
    "The same: the share of each expert's units that are redrawn, normal by the mean and the deviation of the tensor, "
    "different ones in each expert (drop-upcycling, Nakamura et al. 2025). It changes the function and makes experts unlike.",
    "A share of {drop_upcycling} of each expert's units is redrawn, others in each: they learn different things.",
)

UPCYCLING = (ROUTER_INIT, ROUTER_STD, PIECE_ROUTING, SHARED_EXPERT, DROP_UPCYCLING)
"""All of them."""
