"""What a suite is: recipes that share a base, as one YAML file."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.common.config import NonNegativeInt, PositiveInt, StrictModel, read_yaml, validate
from pipeline.recipe import UNITS, Recipe, read_recipe
from pipeline.recipe.models import Positive

_TUNING_SEEDS = (501, 502)
"""The seeds of the sweep, which no final run has, where a suite names no others: one alone does not show a rate at the edge of
what is stable."""

SOURCE_SEED = 1000
"""What is added to a run's seed for its source, which so sees other text in another order."""

Patch = dict[str, Any]
"""Keys of a recipe, each of which replaces the base's whole. A train stage may say `share: 0.5` in place of a length, which is
half of the suite's `steps` times the horizon, and one stage of a method with `lengths` says `rest: true`."""

Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]


class MethodConfig(StrictModel):
    """One way to train the target."""

    title: str
    grown_from: str | None = None
    """The suite's source that it starts from; where not given, `recipe.source` says what is trained."""
    recipe: Patch = Field(default_factory=dict)
    lengths: list[Positive] = Field(default_factory=list)
    """The compute of its whole run, everything counted, in units of the baseline's at the same horizon. A run of the
    greatest is made, and with each seed further ones down to the first that ends above the baseline's loss. The stage with
    `rest: true` takes the steps that the others leave. The sweep's runs have the first of them."""
    horizons: list[Positive] | None = None
    """Those of the suite's at which it is run; all of them where not given."""
    rates: Annotated[list[Positive], Field(min_length=1)] | None = None
    """sweep: each: instead of the suite's, and as many."""
    frontier: bool = False
    """Whether it is a model of another size, trained without growth for the compute that the target takes from scratch."""
    source_size: bool = False
    """Whether it is the smallest model that methods grow from, trained on as many tokens as the target from scratch."""


class AblationConfig(StrictModel):
    """One question, as further methods that are run with the first seed alone."""

    title: str
    beside: list[Name] = Field(default_factory=list)
    """Methods of the suite that are shown beside them."""
    methods: dict[Name, MethodConfig]


class Suite(StrictModel):
    """A comparison: every method with the same data, order, batch and schedule."""

    title: str
    ds_config: str
    """The name of a file of ds_configs/."""
    jobs: PositiveInt = 1
    """Runs at a time."""
    seeds: PositiveInt = 3
    """Final runs of each method, with the seeds from 1 on; --seeds overrides it."""
    steps: PositiveInt | None = None
    """The steps that the shares of stages are of, at the horizon 1."""
    horizons: list[Positive] = Field(default_factory=lambda: [1.0], min_length=1)
    """How many times `steps` the comparison is made at. Shares and `lengths` grow with it; what is given in steps, as warmups
    are, does not. All horizons have the rates of the first."""
    saved_at: Literal["crossing", "end"] = "crossing"
    """Where a run has reached the baseline's last loss: where its curve crosses it, or, for runs whose rate falls in the end
    alone, where it ends, between runs of different lengths by interpolation."""
    shared_steps: PositiveInt | None = None
    """Runs that begin with the same steps, so many or more, take these once: a separate run, from whose end they go on.
    Where not given each run takes all its steps."""
    base: Patch
    """The recipe but for what a run changes."""
    sources: dict[Name, Patch]
    """Small models, each trained once for each seed."""
    baseline: Name
    """The method from scratch, whose rate is tuned first."""
    sweep: Literal["baseline", "each"] = "baseline"
    """Whose rate is tuned: the baseline's, which everyone then takes, or each method's own, in as many trials."""
    rates: Annotated[list[Positive], Field(min_length=1)]
    """Peak learning rates of the sweep; the one with the lowest final held-out loss, in the mean, is taken. A single one
    is taken untuned. `optimizer.muon_lr` keeps its ratio to the base's `optimizer.lr` where both are named."""
    tuning_seeds: list[NonNegativeInt] = Field(default_factory=lambda: list(_TUNING_SEEDS), min_length=1)
    """Those of the sweep."""
    methods: dict[Name, MethodConfig]
    ablations: dict[Name, AblationConfig] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> "Suite":
        if self.baseline not in self.methods:
            raise ValueError(f"baseline: {self.baseline!r} is not one of the methods; choose {', '.join(self.methods)}")
        sections = {"methods": self.methods} | {
            f"ablations.{name}.methods": one.methods for name, one in self.ablations.items()
        }
        names: set[str] = set()
        for section, methods in sections.items():
            for name, method in methods.items():
                if method.grown_from is not None and method.grown_from not in self.sources:
                    raise ValueError(
                        f"{section}.{name}.grown_from: {method.grown_from!r} is not one of the sources; choose "
                        f"{', '.join(self.sources)}"
                    )
                self._check_method(f"{section}.{name}", name, method)
                if name in names:
                    raise ValueError(f"{section}.{name}: another method has the same name; choose another")
                names.add(name)
        for name, ablation in self.ablations.items():
            for other in ablation.beside:
                if other not in self.methods:
                    raise ValueError(
                        f"ablations.{name}.beside: {other!r} is not one of the methods; choose {', '.join(self.methods)}"
                    )
        return self

    def _check_method(self, where: str, name: str, method: MethodConfig) -> None:
        """Raise ValueError where a method's lengths, horizons or rates do not go with its stages or with the suite."""
        stages = [stage for stage in method.recipe.get("stages", self.base.get("stages")) or [] if isinstance(stage, dict)]
        rests = [stage for stage in stages if stage.get("rest")]
        if len(rests) != bool(method.lengths):
            raise ValueError(
                f"{where}.lengths: a method with `lengths` has one stage with `rest: true`, which takes what the others leave, "
                f"and one without has none; here {len(rests)} have it"
            )
        if method.lengths and (name == self.baseline or method.grown_from is not None):
            raise ValueError(f"{where}.lengths: neither the baseline nor a method with `grown_from` has any; leave the key out")
        for stage in stages:
            share = stage.get("share")
            if "share" in stage and not (isinstance(share, int | float) and 0 < share <= 1):
                raise ValueError(
                    f"{where}.recipe.stages: `share: {share}` is no share of the suite's steps; above 0, at most 1"
                )
            if len(lengths := sorted({"share", "rest", *UNITS}.intersection(stage))) > 1:
                raise ValueError(f"{where}.recipe.stages: a stage has one length, and here {' and '.join(lengths)}")
        if any("share" in stage for stage in stages) and self.steps is None:
            raise ValueError(f"{where}.recipe.stages: a `share` is one of the suite's `steps`; say how many these are")
        absent = [horizon for horizon in method.horizons or [] if horizon not in self.horizons]
        if absent or (name == self.baseline and method.horizons is not None):
            suites = ", ".join(f"{horizon:g}" for horizon in self.horizons)
            raise ValueError(f"{where}.horizons: some of the suite's are expected, {suites}, and all of them of the baseline")
        if method.rates is not None and (self.sweep != "each" or len(method.rates) != len(self.rates)):
            raise ValueError(
                f"{where}.rates: with `sweep: each` a method may have {len(self.rates)} own rates, as many as all others"
            )
        by_ends = [key for key in ("lengths", "frontier", "source_size") if getattr(method, key)]
        if by_ends and self.saved_at != "end":
            raise ValueError(f"{where}.{by_ends[0]}: is of suites with `saved_at: end`; leave the key out")

    @model_validator(mode="after")
    def _horizons_told(self) -> "Suite":
        for key, alone in (("horizons", [1.0]), ("sweep", "baseline")):
            if self.saved_at != "end" and getattr(self, key) != alone:
                raise ValueError(f"{key}: others than {alone} go with `saved_at: end`")
        return self


def load_suite(path: Path) -> Suite:
    """Return the suite in a YAML file; raises UserError naming the key and what to write."""
    return validate(Suite, read_yaml(path), str(path))


def recipe_of(base: Patch, patch: Patch, where: str) -> Recipe:
    """Return the base with the patch's keys in place of its own; raises UserError naming what is wrong."""
    return read_recipe(base | patch, where)
