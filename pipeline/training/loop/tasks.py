"""Zero-shot tasks during training, scored with the engine itself."""

from pathlib import Path

import torch
from transformers import PretrainedConfig

from data_prep.tokenizers.loading import Tokenizer
from pipeline.evaluation.encoding import Encoder
from pipeline.evaluation.registry import zero_shot_task
from pipeline.evaluation.scores import Score
from pipeline.evaluation.scoring import Scorer
from pipeline.evaluation.zero_shot.evaluate import Options, check_zero_shot, score_tasks
from pipeline.families import Family, family_of
from pipeline.recipe import Recipe
from pipeline.training import distributed
from pipeline.training.engine import TrainedModel


def check_tasks(recipe: Recipe, family: Family) -> None:
    """Raise UserError where a recipe names a task that is unknown or not done during training, or whose data is missing."""
    for task in recipe.evaluation.tasks:
        check_zero_shot(task, family, "evaluation.tasks")
        zero_shot_task(task).read(_data(recipe))


def encoder_of(recipe: Recipe, tokenizer: Tokenizer, config: PretrainedConfig) -> Encoder | None:
    """Return the run's tokenizer as tasks use it, None where there are none; raises UserError where they cannot use it."""
    if not recipe.evaluation.tasks:
        return None
    encoder = Encoder(tokenizer, config)
    encoder.check(family_of(config))
    return encoder


class Tasks:
    """A recipe's zero-shot tasks."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer) -> None:
        self._recipe = recipe
        self._tokenizer = tokenizer

    def due(self, step: int) -> bool:
        """Whether the tasks are scored at this step of the run, beside the ends of stages."""
        every = self._recipe.evaluation.tasks_every
        return every is not None and step % every == 0

    def score(self, model: TrainedModel, stage: str, step: int, window: int) -> list[Score]:
        """Return what the tasks make of the model as it stands, a collective call.

        `window` is the stage's sequence length: positions beyond it may not have been trained yet.
        """
        evaluation = self._recipe.evaluation
        encoder = distributed.on_every_rank(lambda: encoder_of(self._recipe, self._tokenizer, model.config))
        if encoder is None:
            return []
        options = Options(
            window=window,
            batch_size=model.engine.train_micro_batch_size_per_gpu(),
            limit=evaluation.tasks_limit,
            every=evaluation.tasks_token_every,
        )

        def logits(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return model.logits(input_ids, attention_mask=attention_mask).tokens

        ranks = (distributed.device(), distributed.rank(), distributed.world_size(), distributed.total)
        scorer = Scorer(model.module, logits, *ranks, f"{stage}: step {step}")
        model.engine.eval()
        scored = score_tasks(evaluation.tasks, scorer, model.family, encoder, _data(self._recipe), options)
        model.engine.train()
        # The weights are in pieces, and not for long what they are: there is no digest of them.
        return [Score(self._recipe.run_dir, None, stage, step, **task._asdict(), **encoder.digests) for task in scored]


def _data(recipe: Recipe) -> list[Path] | None:
    folders = recipe.evaluation.data
    return None if folders is None else [Path(folder) for folder in folders]
