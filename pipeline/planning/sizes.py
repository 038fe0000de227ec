"""The sizes that a target may be grown from, and what a step of each costs."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property

from transformers import PretrainedConfig

from pipeline.families import graph_of, scratch_config, sizes_of
from pipeline.flops.counts import ForwardFlops, training_step
from pipeline.planning.record import noted_sizes
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
