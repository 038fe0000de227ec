"""The text that a run reads: a mix for each sequence length and blend that its stages name."""

import logging
from collections.abc import Iterable

from data_prep.manifest import PreparedData
from pipeline.data.batches import Batches
from pipeline.data.corpora import effective_weights, open_batches
from pipeline.data.objectives import objective_for
from pipeline.families import Family
from pipeline.recipe import Recipe
from pipeline.training.plan.training_plan import DataMix

logger = logging.getLogger(__name__)


def corpora_read(recipe: Recipe, data: PreparedData) -> set[str]:
    """Return the names of the corpora that a run may read."""
    chosen = [recipe.data.weights, *(stage.weights for stage in recipe.train_stages if stage.weights is not None)]
    return {name for weights in chosen for name in ([corpus.name for corpus in data.corpora] if weights is None else weights)}


class DataMixes:
    """Opened once each; raises UserError for what cannot be read."""

    def __init__(self, recipe: Recipe, family: Family, data: PreparedData) -> None:
        self._recipe = recipe
        self._family = family
        self._data = data
        self._opened: dict[DataMix, tuple[Batches, Batches]] = {}
        self.weights: dict[str, dict[str, float]] = {}
        """Each corpus's share of the samples, by mix."""
        self.own = DataMix.of(recipe, None, None)
        """What the recipe's data section describes."""
        self.open([self.own])
        wanted, there = recipe.evaluation.windows, len(self.heldout)
        if wanted > there:
            logger.info(
                f"evaluation.windows: {wanted:,} are wanted, and the held-out text has {there:,}; all of them are taken"
            )

    def open(self, mixes: Iterable[DataMix]) -> None:
        """Open mixes, and say which corpora have no share of one."""
        for mix in mixes:
            if mix in self._opened:
                continue
            objective = objective_for(self._family.objective, self._data.tokenizer, mix.sequence_length)
            chosen = None if mix.weights is None else dict(mix.weights)
            pairs = self._recipe.data.pairs
            # A pair is of two tokens or more, however short its shard.
            weights, left_out = effective_weights(self._data, chosen, objective.window[0] if pairs is None else 2)
            for name, reason in left_out.items():
                logger.info(f"data: the corpus {name!r} is left out, {reason}")
            apart = self._recipe.data.attention == "document"
            self._opened[mix] = open_batches(
                self._data,
                weights,
                objective,
                self._recipe.seed,
                within_documents=apart,
                pairs=pairs,
                # Within documents positions are counted here, whatever token stands there.
                padding_id=None if apart else self._family.padding_id,
            )
            self.weights[mix.name] = weights

    def windows(self, mix: DataMix) -> int:
        """Training windows of a mix: the samples of an epoch."""
        self.open([mix])
        return len(self.training(mix))

    def training(self, mix: DataMix) -> Batches:
        """The training batches of a mix."""
        return self._opened[mix][0]

    @property
    def heldout(self) -> Batches:
        """The held-out batches that every evaluation of the run takes."""
        return self._opened[self.own][1]
