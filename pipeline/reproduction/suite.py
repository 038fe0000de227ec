"""What a suite is: recipes that share a base, as one YAML file."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from data_prep.config import PositiveInt, StrictModel, read_yaml, validate
from pipeline.recipe import Recipe
from pipeline.recipe.models import Positive

TUNING_SEEDS = (501, 502)
"""The seeds of the sweep, which no final run has: one alone does not show a rate at the edge of what is stable."""

SOURCE_SEED = 1000
"""What is added to a run's seed for its source, which so sees other text in another order."""

Patch = dict[str, Any]
"""Keys of a recipe, each of which replaces the base's whole."""

Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]


class MethodConfig(StrictModel):
    """One way to train the target."""

    title: str
    grown_from: str | None = None
    """The suite's source that it starts from; where not given, `recipe.source` says what is trained."""
    recipe: Patch = Field(default_factory=dict)


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
    base: Patch
    """The recipe but for what a run changes."""
    sources: dict[Name, Patch]
    """Small models, each trained once for each seed."""
    baseline: Name
    """The method from scratch, whose rate is tuned first."""
    rates: Annotated[list[Positive], Field(min_length=1)]
    """Peak learning rates of the sweep; the one with the lowest final held-out loss, in the mean, is everyone's. A single one
    is taken untuned."""
    methods: dict[Name, MethodConfig]
    ablations: dict[Name, AblationConfig] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> "Suite":
        if self.baseline not in self.methods:
            raise ValueError(f"baseline: {self.baseline!r} is none of the methods; choose {', '.join(self.methods)}")
        sections = {"methods": self.methods} | {
            f"ablations.{name}.methods": one.methods for name, one in self.ablations.items()
        }
        names: set[str] = set()
        for section, methods in sections.items():
            for name, method in methods.items():
                if method.grown_from is not None and method.grown_from not in self.sources:
                    raise ValueError(
                        f"{section}.{name}.grown_from: {method.grown_from!r} is none of the sources; choose "
                        f"{', '.join(self.sources)}"
                    )
                if name in names:
                    raise ValueError(f"{section}.{name}: another method has the same name; choose another")
                names.add(name)
        for name, ablation in self.ablations.items():
            for other in ablation.beside:
                if other not in self.methods:
                    raise ValueError(
                        f"ablations.{name}.beside: {other!r} is none of the methods; choose {', '.join(self.methods)}"
                    )
        return self


def load_suite(path: Path) -> Suite:
    """Return the suite in a YAML file; raises UserError naming the key and what would do."""
    return validate(Suite, read_yaml(path), str(path))


def recipe_of(base: Patch, patch: Patch, where: str) -> Recipe:
    """Return the base with the patch's keys in place of its own; raises UserError naming what is wrong."""
    return validate(Recipe, base | patch, where)
