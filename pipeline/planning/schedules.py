"""What is asked of the planner: sizes and what a step of each costs, ways to grow, and schedules that may answer it."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from transformers import PretrainedConfig

from pipeline.families import graph_of, scratch_config, sizes_of
from pipeline.flops.counts import ForwardFlops, training_step
from pipeline.planning.law import Phase, Training, traits_of, under
from pipeline.planning.record import GrowthEntry, RunEntry, noted_sizes, operators_of, section_of
from pipeline.recipe import ModelConfig, Recipe
from pipeline.training.plan.training_plan import expected_scored


@dataclass(frozen=True)
class Size:
    """A model by its configuration, and what one step of a run costs with it."""

    config: PretrainedConfig
    step_flops: int
    """Executed ones, as the ledger counts them: attention scores, head and all."""

    @classmethod
    def of(cls, config: PretrainedConfig, recipe: Recipe) -> "Size":
        """The size of a model that a recipe's batches are run through."""
        tokens, forward = recipe.train_batch_size * recipe.data.sequence_length, ForwardFlops.of(config)
        step = training_step(
            forward,
            recipe.data.sequence_length,
            tokens,
            scored=expected_scored(forward.family, tokens),
            recomputed=recipe.activation_checkpointing,
            causal_scores=recipe.flops.causal_scores,
            pairs=recipe.data.pairs is not None,
        )
        return cls(config, step.executed_total)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """What is noted of it in a record."""
        return noted_sizes(asdict(sizes_of(self.config)))

    @cached_property
    def parameters(self) -> int:
        """Those that a token meets."""
        return graph_of(self.config).active_parameters

    @property
    def name(self) -> str:
        """Layers and width."""
        return f"{self.sizes['num_hidden_layers']}x{self.sizes['hidden_size']}"

    def beyond(self, other: "Size") -> dict[str, int]:
        """The sizes in which it differs from another, as a growth's target names them."""
        return {key: value for key, value in self.sizes.items() if value != other.sizes[key]}


def size_of(model: ModelConfig, recipe: Recipe, vocab_size: int) -> Size:
    """Return the size of a model to build from scratch; raises UserError where its family does not have it."""
    return Size.of(scratch_config(model, vocab_size, 0, recipe.data.sequence_length), recipe)


def smaller_models(target: ModelConfig) -> Iterator[ModelConfig]:
    """Yield models that the target may grow from along one axis: of few layers, of a part of them, of a part of the width."""
    layers = target.num_hidden_layers
    for depth in sorted({1, 2, 3, 4, layers // 4, layers // 2, layers * 3 // 4} - {0}):
        if depth < layers:
            yield target.model_copy(update={"num_hidden_layers": depth})
    scaled = ("hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    for parts in (4, 2):
        sizes = {key: getattr(target, key) for key in scaled if getattr(target, key) is not None}
        # Heads keep their width, of which all operators can make whole ones.
        if all(size % parts == 0 for size in sizes.values()):
            yield target.model_copy(update={key: size // parts for key, size in sizes.items()})


@dataclass(frozen=True)
class Kind:
    """A way to grow, as runs of the record did."""

    axis: str
    """`depth` or `width`."""
    growth: str
    """Keys of a recipe's growth section, as JSON."""
    traits: tuple[str, ...]

    @classmethod
    def of(cls, growth: GrowthEntry) -> "Kind | None":
        """The kind of a growth of a record; None where it is along both axes, or of layers that are named one by one."""
        operators = operators_of(growth)
        # A list of layers is of the sizes that it was written for.
        if len(operators) != 1 or "list" in operators.values():
            return None
        return cls(next(iter(operators)), json.dumps(section_of(growth)), traits_of(growth))

    @property
    def section(self) -> dict[str, Any]:
        """Keys of a recipe's growth section."""
        return json.loads(self.growth)

    @property
    def name(self) -> str:
        """In words."""
        section = self.section
        state = {"grow": "state grown", "fresh": "state fresh"}[section["optimizer_state"]]
        others = [f"{key} {value}" for key, value in section.items() if key not in ("depth", "width", "optimizer_state")]
        return ", ".join([section[self.axis], state, *others])


@dataclass(frozen=True)
class Given:
    """A model that is there, as the first size."""

    size: Size
    tokens: int
    """What it was trained on."""
    flops: int
    optimizer: str


@dataclass(frozen=True)
class Question:
    """What is asked: a target, the tokens that it would be trained on from scratch, and how runs are."""

    setting: str
    text: str
    """The fingerprint of the prepared text."""
    optimizer: str
    target: Size
    tokens: int
    step_tokens: int
    decay: float
    """The share of a run over which its learning rate falls."""
    smaller: tuple[Size, ...]
    given: Given | None = None

    @property
    def steps(self) -> int:
        """Steps of the target from scratch."""
        return math.ceil(self.tokens / self.step_tokens)

    def traits(self, kinds: Sequence[Kind]) -> tuple[tuple[str, ...], ...]:
        """What the law looks at of growths of such kinds here."""
        return tuple((*kind.traits, under(self.optimizer)) for kind in kinds)

    @property
    def scratch(self) -> Training:
        """The target from scratch."""
        return Training(self.setting, (Phase(self.target.parameters, self.steps * self.step_tokens),), ())

    @property
    def scratch_flops(self) -> int:
        """What that costs."""
        return self.steps * self.target.step_flops


@dataclass(frozen=True)
class Schedule:
    """Sizes in turn, each with the steps that it is trained for here, and the growths between them."""

    sizes: tuple[Size, ...]
    steps: tuple[int, ...]
    kinds: tuple[Kind, ...]
    given: Given | None = None
    """Where the first size is there already; its own steps here may be none."""

    @property
    def flops(self) -> int:
        """What is spent here, on all its sizes."""
        return sum(size.step_flops * steps for size, steps in zip(self.sizes, self.steps, strict=True))

    @property
    def whole_flops(self) -> int:
        """The same with what a given source has cost."""
        return self.flops + (self.given.flops if self.given else 0)

    def training(self, question: Question) -> Training:
        """What the law looks at."""
        before = self.given.tokens if self.given else 0
        tokens = [steps * question.step_tokens for steps in self.steps]
        tokens[0] += before
        phases = tuple(Phase(size.parameters, each) for size, each in zip(self.sizes, tokens, strict=True))
        return Training(question.setting, phases, question.traits(self.kinds))

    @property
    def name(self) -> str:
        """Sizes with their steps."""
        return " → ".join(f"{size.name} ({steps:,})" for size, steps in zip(self.sizes, self.steps, strict=True))


def kinds_of(entries: Sequence[RunEntry], question: Question) -> list[Kind]:
    """Return the ways to grow that runs of the record went, along one axis each, within one schedule.

    Those alone that can be gone here: a given source's state does not grow into that of another optimizer.
    """
    growths = [growth for entry in entries for growth in entry["growths"] if not growth["schedule_anew"]]
    kinds = list(dict.fromkeys(kind for kind in map(Kind.of, growths) if kind is not None))
    if question.given is None or question.given.optimizer == question.optimizer:
        return kinds
    return [kind for kind in kinds if kind.section["optimizer_state"] == "fresh"]
