"""The recipe's growth: the operators, by name, and their options."""

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import Field, create_model, model_validator

from pipeline.common.config import NonNegativeInt, StrictModel
from pipeline.operators import DEPTH, OPTIONS, UPCYCLING, WIDTH, Option
from pipeline.recipe.models import InitializerRange, Positive

AUTO = "auto"

if TYPE_CHECKING:
    WidthName: TypeAlias = str
    DepthName: TypeAlias = str
else:
    WidthName = Literal[AUTO, *WIDTH]
    DepthName = Literal[AUTO, *DEPTH]


class AddedConfig(StrictModel):
    """The learning rate of what a growth added, as a share of its group's, by the steps that each element has taken since."""

    warmup_steps: NonNegativeInt = 0
    """Steps over which the share climbs from 0 to `lr_ratio`."""
    lr_ratio: Positive = 1.0
    """The share that is climbed to."""
    decay_steps: NonNegativeInt = 0
    """Steps after those over which the share goes from `lr_ratio` to 1."""

    @property
    def steps(self) -> int:
        """The steps after which the share is 1."""
        return self.warmup_steps + self.decay_steps

    @property
    def described(self) -> list[str]:
        """What becomes of the rate, in a sentence without a full stop; none where it is the common one."""
        if not self.steps:
            return []
        peak = "the common one" if self.lr_ratio == 1 else f"{self.lr_ratio:g} times the common one"
        climbs = f"climbs to {peak} over {self.warmup_steps:,} steps" if self.warmup_steps else f"begins at {peak}"
        comes = f" and comes to the common one over {self.decay_steps:,} steps" if self.decay_steps else ""
        return [f"the rate of what is added {climbs}{comes}"]

    @model_validator(mode="after")
    def _ends_at_one(self) -> "AddedConfig":
        if (self.lr_ratio != 1) != (self.decay_steps > 0):
            raise ValueError("`lr_ratio` goes with `decay_steps`, over which what was added comes to the common rate; set both")
        return self


class _Growth(StrictModel):
    """How the source becomes the target."""

    width: WidthName = AUTO
    """The width operator; docs/explanation/operators.md says what each does. `auto` takes one that is exact, or where none
    is the one that moves logits least, and says which."""
    depth: DepthName = AUTO
    """The depth operator, likewise."""
    vocabulary: Literal["auto", "pieces", "mean", "random"] = "auto"
    """How rows of new tokens begin. `pieces`: as the mean of the rows of the source's tokens that spell the new token; `mean`:
    as the mean of all rows; `random`: as the model's weights are drawn. `auto`: `pieces` where the target has another
    tokenizer, else `mean`."""
    positions: Literal["copy", "interpolate"] = "copy"
    """Rows of a longer position table: the old ones again, or all of them stretched."""
    initializer_range: InitializerRange | None = None
    """The standard deviation of what the growth draws at random: a number, or `width`, which is 0.02 sqrt(768 / hidden_size).
    Where not given: `initializer_range` of the target's configuration."""
    optimizer_state: Literal["grow", "fresh"] = "fresh"
    """`grow`: what the optimizer keeps (moments of AdamW and Lion, Muon's momentum) grows with the weights; the source must
    have it (a run, a ZeRO checkpoint), of the same optimizer."""
    new_moments: Literal["auto", "fresh", "copied", "scaled"] = "auto"
    """With `optimizer_state: grow`: the state of copies whose gradient is another than that of the element that they copy
    (repeated layers, rows of the next layer, copies with `noise`). `fresh`: zeros, at age 0; `copied`: the state and the age of
    that element; `scaled`: the same, times the factor of copies that share its gradient. `auto`: `scaled` for copies with
    noise, `fresh` for all others."""
    element_rates: bool = False
    """With `optimizer_state: grow`: rates and eps of each element such that the source's own dynamics go on."""
    added: AddedConfig = AddedConfig()
    """The learning rate of what the growth adds in depth, width and vocabulary: `{warmup_steps: 100, lr_ratio: 0.1,
    decay_steps: 500}` climbs to 0.1 of the common rate in 100 steps, and goes to the common rate in 500 more. Where not given:
    the common rate."""

    @model_validator(mode="after")
    def _options_belong(self) -> "_Growth":
        given = {name: getattr(self, name) for name in OPTIONS}
        for name, option in OPTIONS.items():
            if given[name] != option.default and option not in UPCYCLING and not self._has(option):
                operators = [key for key, one in (WIDTH | DEPTH).items() if option in one.options]
                axis = "depth" if operators[0] in DEPTH else "width"
                raise ValueError(f"`{name}` is an option of {axis}: {' or '.join(operators)}, not of {getattr(self, axis)}")
        if self.depth == "list" and given["layers"] is None:
            raise ValueError("`layers` goes with depth: list, which takes the source layer of each target layer")
        noisy = (self.width != AUTO and WIDTH[self.width].noisy) or given["symmetry"] != "none"
        if given["noise"] and not noisy:
            alone = " or ".join(name for name, operator in WIDTH.items() if operator.noisy)
            raise ValueError(f"`noise` is an option of width: {alone}, or of `symmetry`; {self.width} alone has none")
        if given["symmetry"] != "none" and not given["noise"]:
            raise ValueError(f"`symmetry: {given['symmetry']}` needs a size: set `noise`, for instance to 0.25")
        if given["symmetry"] == "split" and given["noise"] > 1:
            raise ValueError("`noise` with symmetry: split is a share of the weight, at most 1")
        if given["norm_anneal_steps"] != 1000 and given["norm_statistics"] == "stock" and self.width != AUTO:
            raise ValueError("`norm_anneal_steps` goes with norm_statistics: weighted")
        if self.width != AUTO and (fault := WIDTH[self.width].check(given)):
            raise ValueError(fault)
        if given["router_std"] is not None and given["router_init"] == "zero":
            raise ValueError("`router_std` goes with router_init: normal")
        if self.new_moments != AUTO and self.optimizer_state != "grow":
            raise ValueError("`new_moments` goes with optimizer_state: grow")
        if given["shrink"] != 1.0 and self.optimizer_state == "grow":
            raise ValueError(
                "`shrink` adds noise to weights that the optimizer's state then does not fit; choose optimizer_state: fresh"
            )
        if self.element_rates and self.optimizer_state != "grow":
            raise ValueError("`element_rates` goes with optimizer_state: grow")
        return self

    def _has(self, option: Option) -> bool:
        """Whether the operators have an option; `auto` takes those of the operators that it may become."""
        if self.width == AUTO and option.name in ("symmetry", "noise", "norm_anneal_steps"):
            return True
        of_width = () if self.width == AUTO else WIDTH[self.width].options
        of_depth = () if self.depth == AUTO else DEPTH[self.depth].options
        return option in (*of_width, *of_depth)


if TYPE_CHECKING:

    class GrowthConfig(_Growth):
        """How the source becomes the target: the operators, and their options."""

        def __getattr__(self, name: str) -> Any:
            """An operator's option."""

else:
    GrowthConfig = create_model(
        "GrowthConfig",
        __base__=_Growth,
        __doc__="How the source becomes the target: the operators, and their options.",
        __module__=__name__,
        **{
            name: (option.annotation, Field(option.default, description=option.description)) for name, option in OPTIONS.items()
        },
    )
