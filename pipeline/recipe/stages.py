"""The recipe's stages: how long each is, what it trains and how; and the models that they train, one grown from the other."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Union

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from pipeline.common.config import Fraction, NonNegative, NonNegativeInt, PositiveInt, StrictModel
from pipeline.recipe.data import Weights
from pipeline.recipe.growth import GrowthConfig
from pipeline.recipe.models import Positive, TargetConfig

UNITS = ("steps", "epochs", "tokens", "flops")
"""What the length of a stage may be counted in."""

SOURCE_STAGE = "source"
"""The name under which the source's own training is logged."""

GROWN_STAGE = "grown"
"""The name under which the evaluation right after the first growth is logged."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
_SELECTOR = re.compile(r"embeddings|head|added|new_tokens|router|(layers|experts)(\.\d+(-\d+)?)?")


def _selector(name: str) -> str:
    if not _SELECTOR.fullmatch(name):
        raise ValueError(
            "parameters are named embeddings, head, layers, added, new_tokens, layers.3 or layers.6-11; of mixtures of experts "
            "also router, experts, experts.3 or experts.0-3"
        )
    return name


Selector = Annotated[str, AfterValidator(_selector)]
"""Parameters: `embeddings`, `head` (with the matrix that it shares with the embedding, where tied), `layers`, `layers.3`,
or `layers.6-11`, both ends included and counted from 0; `added`, the layers that the model's last growth added;
`new_tokens`, the rows of the tokens that it added, in the embedding and the output matrix, and nothing else of those. Of a
mixture of experts `router`, the routers of all layers with the gates of shared experts; `experts`, all experts of all layers,
the shared ones among them; `experts.3` or `experts.0-3`, those of all layers, without the shared ones."""


class ScheduleConfig(StrictModel):
    """The learning rate over the steps of a model, of the run (`span`), or of the one stage that names it."""

    name: Literal["linear", "cosine", "constant", "wsd", "inverse_sqrt"] = "linear"
    """How the rate falls after the warmup, to `final_ratio` of the peak. `wsd` stays at the peak and falls over the last
    `decay_ratio` of the steps; `inverse_sqrt` falls with the square root of the steps."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the rate climbs from 0."""
    final_ratio: Fraction = 0.0
    """The share of the peak that the rate falls to."""
    decay: Literal["linear", "cosine", "sqrt"] = "linear"
    """wsd: how the rate falls in the end."""
    decay_ratio: Annotated[float, Field(gt=0, le=1)] = 0.1
    """wsd: the share of all steps over which the rate falls."""
    span: Literal["model", "run"] = "model"
    """What the schedule stretches over: the training of one model, restarting with each growth, or the whole run."""

    @model_validator(mode="after")
    def _options_belong(self) -> "ScheduleConfig":
        for option in ("decay", "decay_ratio"):
            if self.name != "wsd" and getattr(self, option) != type(self).model_fields[option].default:
                raise ValueError(f"`{option}` is an option of name: wsd, not of {self.name}")
        if self.name == "inverse_sqrt" and (self.final_ratio or not self.warmup_steps):
            raise ValueError("inverse_sqrt needs `warmup_steps`, by which it falls, and has no `final_ratio`")
        return self


class LengthConfig(StrictModel):
    """A number of optimizer steps, in one of several units."""

    steps: PositiveInt | None = None
    """Steps of the optimizer."""
    epochs: Positive | None = None
    """Passes over the training windows of the stage's corpora."""
    tokens: PositiveInt | None = None
    """Tokens that are read, those that are not scored among them."""
    flops: Positive | None = None
    """Model FLOPs; the stage ends with the step that reaches them. Of a masked model that is only
    expected: 15 % of all positions, the padding of pairs among them, are taken to be scored, and what is booked is what was."""

    @property
    def length(self) -> tuple[str, float] | None:
        """The unit and the number, or None where none is given."""
        given = [(unit, getattr(self, unit)) for unit in UNITS if getattr(self, unit) is not None]
        return given[0] if given else None

    @model_validator(mode="before")
    @classmethod
    def _one_unit(cls, content: object) -> object:
        if isinstance(content, dict):
            given = [unit for unit in UNITS if content.get(unit) is not None]
            if len(given) > 1:
                raise ValueError(f"a length in `{given[0]}` and another in `{given[1]}`: leave one out, or set it to null")
        return content


class GroupConfig(StrictModel):
    """A learning rate or a decay of their own for some parameters."""

    parameters: Annotated[list[Selector], Field(min_length=1)]
    """Which parameters: embeddings, head, layers, layers.3, layers.6-11, added, new_tokens, router, experts or experts.0-3."""
    lr: Positive | None = None
    """Peak learning rate; the stage's where not given."""
    weight_decay: NonNegative | None = None
    """The optimizer's where not given. Norms and biases do not decay in any case."""

    @model_validator(mode="after")
    def _says_something(self) -> "GroupConfig":
        if self.lr is None and self.weight_decay is None:
            raise ValueError("a group gives its parameters an `lr`, a `weight_decay` or both; name one, or leave the group out")
        return self


@dataclass(frozen=True, slots=True)
class ModelPhase:
    """The training of one model, from its growth (or beginning) to the next."""

    number: int
    """How often the model has been grown: 0 is the source."""
    name: str
    """Of the growth that it begins with."""
    stages: tuple["TrainStage", ...]


@dataclass(frozen=True, slots=True)
class GrownPhase(ModelPhase):
    """The training of a model that was grown in the run."""

    target: TargetConfig
    growth: GrowthConfig


class Phases:
    """What each stage of a recipe is applied to, one after the other."""

    def __init__(self, growth: GrowthConfig) -> None:
        """`growth` is how a model grows where a stage does not say."""
        self._growth = growth
        self._growths: list[tuple[str, TargetConfig, GrowthConfig]] = []
        self._trained: list[list[TrainStage]] = [[]]
        """Of the source, and of each model grown from it."""

    def train(self, stage: "TrainStage") -> None:
        """Train the model that is there."""
        self._trained[-1].append(stage)

    def grow(self, name: str, target: TargetConfig, growth: GrowthConfig | None) -> None:
        """Grow the model that is there, in the recipe's own way where `growth` is None, and begin a phase with the new one."""
        self._growths.append((name, target, growth or self._growth))
        self._trained.append([])

    def apply(self, stages: Sequence["Stage"]) -> list[ModelPhase]:
        """Return the source's phase and those of the grown models, as all of the stages have them."""
        for stage in stages:
            stage.apply(self)
        source, *others = map(tuple, self._trained)
        phases = [ModelPhase(0, SOURCE_STAGE, source)]
        for number, (trained, (name, target, growth)) in enumerate(zip(others, self._growths, strict=True), 1):
            phases.append(GrownPhase(number, name, trained, target, growth))
        return phases


class Stage(StrictModel):
    """A stage of a recipe, of whatever kind: a class, which is known by a key that no other kind has, in `STAGE_KINDS`."""

    key: ClassVar[str | None] = None
    """None of the kind that a stage without such a key is of."""

    name: Name
    """The name of the stage in logs and files."""

    def apply(self, phases: Phases) -> None:
        """Have done what the stage stands for."""
        raise NotImplementedError


class TrainStage(Stage, LengthConfig):
    """Training of the model that is there."""

    submodel_layers: PositiveInt | None = None
    """Layers per block l_b: each step trains the top block of one random sub-model and the head
    (bert2BERT algorithm 2). Where not given the full model is run."""
    trainable: Annotated[list[Selector], Field(min_length=1)] | None = None
    """What learns, all else standing still; where not given, everything. Layers below all that learns run without
    gradients."""
    groups: list[GroupConfig] = []
    """Rates and decays that differ from the stage's, for parameters that do not overlap."""
    lr: Positive | None = None
    """Peak learning rate of this stage; the optimizer's where not given."""
    schedule: ScheduleConfig | None = None
    """A schedule of this stage's own; the recipe's, over all stages, where not given."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the schedule's rate is climbed to again, at the beginning of this stage."""
    sequence_length: PositiveInt | None = None
    """Tokens of a sequence in this stage; `data.sequence_length` where not given."""
    weights: Weights | None = None
    """The data blend of this stage, as `data.weights`."""
    train_batch_size: PositiveInt | None = None
    """Sequences in a step of this stage; the run's where not given."""
    train_micro_batch_size_per_gpu: PositiveInt | None = None
    """Most sequences that one rank runs at once; the run's micro-batch where not given."""

    @model_validator(mode="after")
    def _consistent(self) -> "TrainStage":
        if super().length is None:
            raise ValueError("a length is missing: " + ", ".join(UNITS[:-1]) + f" or {UNITS[-1]}")
        if self.submodel_layers is not None and self.trainable is not None:
            raise ValueError("`submodel_layers` and `trainable` both choose what learns; leave one out")
        if self.schedule is not None and self.schedule.span != "model":
            raise ValueError("schedule.span: a stage's own schedule spans that stage; leave the key out")
        return self

    @property
    def length(self) -> tuple[str, float]:
        """The unit and the number."""
        length = super().length
        assert length is not None, "validated"
        return length

    def apply(self, phases: Phases) -> None:
        """Train."""
        phases.train(self)


class GrowStage(Stage):
    """Growth of the model that is there."""

    key: ClassVar[str | None] = "grow"

    grow: TargetConfig
    """The sizes that change."""
    growth: GrowthConfig | None = None
    """Instead of the recipe's, whole; the recipe's where not given."""

    def apply(self, phases: Phases) -> None:
        """Grow."""
        phases.grow(self.name, self.grow, self.growth)


STAGE_KINDS: tuple[type[Stage], ...] = (TrainStage, GrowStage)
"""The first one has no `key`."""


def any_stage(kinds: Sequence[type[Stage]]) -> Any:
    """Return the type of a stage that is of one of the `kinds`, by its key."""

    def kind_of(stage: object) -> str:
        if isinstance(stage, Stage):
            return type(stage).__name__
        keys = stage if isinstance(stage, dict) else ()
        return next((kind for kind in kinds if kind.key in keys), kinds[0]).__name__

    return Annotated[Union[tuple(Annotated[kind, Tag(kind.__name__)] for kind in kinds)], Discriminator(kind_of)]  # noqa: UP007
