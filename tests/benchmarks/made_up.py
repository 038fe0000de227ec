"""What is trained on what where it does not matter: scratch models, batches of shards, ids and labels that say nothing."""

from collections.abc import Sequence

import torch
from transformers import PretrainedConfig

from pipeline.common import keyed
from pipeline.data.batches import Batches, Corpus
from pipeline.data.examples import WindowExamples
from pipeline.data.objectives import IGNORED, Objective
from pipeline.families import FAMILIES, Family, scratch_config
from pipeline.recipe import ModelConfig

SCORED = 0.15
"""Of a masked model's positions."""


def scratch(
    family: str, layers: int, hidden: int, vocabulary: int, length: int, *, heads: int | None = None, **others: object
) -> tuple[Family, PretrainedConfig]:
    """Return a family and a configuration of it, by default with heads of 64 channels, or two where that is too many."""
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads or max(2, hidden // 64)}
    return FAMILIES[family], scratch_config(ModelConfig(family=family, **sizes, **others), vocabulary, 0, length)


def corpus(shards: Sequence, objective: Objective, name: str = "text", *, within_documents: bool = False) -> Corpus:
    return Corpus(name, 1.0, WindowExamples(shards, objective, within_documents=within_documents))


def batches(shards: Sequence, objective: Objective, *, within_documents: bool = False) -> Batches:
    return Batches([corpus(shards, objective, within_documents=within_documents)], 1)


def ids_and_labels(kind: str, sequences: int, length: int, vocabulary: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return drawn ids and labels, each (sequences, length); `mlm` scores a part of them, `clm` all."""
    drawn = keyed.below(("batch", seed), 0, 2 * sequences * length, vocabulary)
    ids, labels = torch.from_numpy(drawn).reshape(2, sequences, length)
    if kind == "mlm":
        unscored = torch.from_numpy(keyed.uniform(("scored",), 0, labels.numel())).reshape(labels.shape) > SCORED
        labels = labels.masked_fill(unscored, IGNORED)
    return ids, labels
