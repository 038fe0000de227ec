"""The recipe's growth: the operators and their options."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from data_prep.config import PositiveInt, StrictModel
from data_prep.settings import NonNegativeInt

NonNegative = Annotated[float, Field(ge=0)]

WidthName = Literal[
    "auto",
    "fpi",
    "aki",
    "nai",
    "direct_copy",
    "zero_pad",
    "average_pad",
    "sqrt_count",
    "hypercloning",
    "exact_aki",
]
DepthName = Literal["auto", "stack", "random", "last_layer", "interleave", "list"]


class GrowthConfig(StrictModel):
    """How the source becomes the target."""

    width: WidthName = "auto"
    """The width operator; `pipeline/growth/operators.py` says what each does. `auto` takes one that is exact, or where none
    is the one that moves logits least, and says which."""
    depth: DepthName = "auto"
    """The depth operator, likewise; `pipeline/growth/depth.py` says what each does."""
    map: Literal["balanced", "random"] = "balanced"
    """fpi, aki: which source index a new one copies: in turn, or drawn uniformly (bert2BERT eq. 5-6)."""
    neighbours: Literal["block", "last"] = "block"
    """nai: the last n heads in order, or the last head n times."""
    paper_factor: bool = False
    """nai: multiply queries and keys by (D_t / D_s)^(1/4) (NAI eq. 14), which is right for scores over sqrt(D) only."""
    scaled: bool = False
    """zero_pad: new units that write nothing and a residual stream scaled for the norm, exact under RMSNorm."""
    noise: NonNegative = 0.0
    """nai: noise on new rows and columns; zero_pad: the small values; `symmetry`: its size. As a share of the tensor's
    own standard deviation (`split`: of the weight)."""
    symmetry: Literal["none", "paired", "split"] = "none"
    """Operators that copy: tell twins apart and keep the function. `paired` adds +e to one twin's in-column and -e to the
    other's; `split` divides 1/C unevenly between them."""
    layers: list[NonNegativeInt] | None = None
    """depth: list: the source layer of each target layer."""
    vocabulary: Literal["mean", "random"] = "mean"
    """Rows of a larger vocabulary: the mean of the old ones, or the model's own initialization."""
    positions: Literal["copy", "interpolate"] = "copy"
    """Rows of a longer position table: the old ones again, or all of them stretched."""
    norm_statistics: Literal["stock", "weighted"] = "stock"
    """`weighted`: operators that copy: norms weigh every channel by 1/C, which is exact at any ratio, and turn to stock
    norms over `norm_anneal_steps` steps of training."""
    norm_anneal_steps: PositiveInt = 1000
    """Where `auto` took weighted norms they turn to stock norms over all steps that the model is trained for, if those are
    fewer."""
    optimizer_state: Literal["grow", "fresh"] = "fresh"
    """`grow`: Adam's moments grow with the weights; the source must have them (a run, a ZeRO checkpoint)."""
    element_rates: bool = False
    """With `optimizer_state: grow`: rates and eps of each element such that the source's own dynamics go on."""

    @model_validator(mode="after")
    def _options_belong(self) -> "GrowthConfig":
        for option, operators in _OPTION_OF.items():
            if getattr(self, option) != type(self).model_fields[option].default and self.width not in operators:
                raise ValueError(f"`{option}` is an option of width: {' or '.join(operators)}, not of {self.width}")
        if (self.layers is not None) != (self.depth == "list"):
            raise ValueError("`layers` goes with depth: list, which takes the source layer of each target layer")
        noisy = self.width in ("nai", "zero_pad") or self.symmetry != "none"
        if self.noise and not noisy:
            raise ValueError(f"`noise` is an option of width: nai or zero_pad, or of `symmetry`; {self.width} alone has none")
        if self.symmetry != "none" and not self.noise:
            raise ValueError(f"`symmetry: {self.symmetry}` needs a size: set `noise`, for instance to 0.25")
        if self.symmetry == "split" and self.noise > 1:
            raise ValueError("`noise` with symmetry: split is a share of the weight, at most 1")
        if self.width == "zero_pad" and self.scaled and self.noise:
            raise ValueError("`scaled` zero_pad is exact and adds no noise; leave one of the two out")
        if self.norm_anneal_steps != 1000 and self.norm_statistics == "stock" and self.width != "auto":
            raise ValueError("`norm_anneal_steps` goes with norm_statistics: weighted")
        if self.element_rates and self.optimizer_state != "grow":
            raise ValueError("`element_rates` goes with optimizer_state: grow")
        return self


_COPYING = ("auto", "fpi", "nai", "hypercloning", "sqrt_count", "average_pad", "exact_aki")
_OPTION_OF = {
    "map": ("fpi", "aki"),
    "neighbours": ("nai",),
    "paper_factor": ("nai",),
    "scaled": ("zero_pad",),
    "symmetry": _COPYING,
    "norm_statistics": ("fpi", "nai", "hypercloning"),
}
