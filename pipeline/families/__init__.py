"""The families that can be grown, and how a model of one is configured, checked and described."""

import copy

import torch
from transformers import PretrainedConfig, PreTrainedModel

from data_prep.errors import UserError
from pipeline.families.base import Axis, AxisKind, Family, Sizes, TensorSpec, sizes_of
from pipeline.families.bert import BERT
from pipeline.families.gpt2 import GPT2
from pipeline.recipe import ModelConfig, TargetConfig

__all__ = [
    "FAMILIES",
    "Axis",
    "AxisKind",
    "Family",
    "Sizes",
    "TensorSpec",
    "check_parameters",
    "family_of",
    "scratch_config",
    "sizes_of",
    "target_config",
]

FAMILIES: dict[str, Family] = {family.name: family for family in (GPT2, BERT)}


def family_of(config: PretrainedConfig, origin: str) -> Family:
    """Return the family of a Hugging Face configuration; raises UserError for one that no table describes."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise UserError(f"{origin}: model_type {config.model_type!r} is not known; known are {', '.join(FAMILIES)}")
    for key, values in family.refused.items():
        if getattr(config, key, values[0]) not in values:
            raise UserError(f"{origin}: {key}: {getattr(config, key)!r} is not supported; {values[0]!r} would do")
    return family


def scratch_config(model: ModelConfig, vocab_size: int, eos_id: int, sequence_length: int) -> PretrainedConfig:
    """Return the Hugging Face configuration of a model to train from scratch.

    Windows are packed full, so there is no padding token, whose embedding would stay untrained.
    """
    family = FAMILIES[model.family]
    config = family.config_class(
        hidden_size=model.hidden_size,
        num_hidden_layers=model.num_hidden_layers,
        num_attention_heads=model.num_attention_heads,
        vocab_size=model.vocab_size or vocab_size,
        max_position_embeddings=model.max_position_embeddings or sequence_length,
        tie_word_embeddings=model.tie_word_embeddings,
        initializer_range=model.initializer_range,
        pad_token_id=None,
        bos_token_id=eos_id,
        eos_token_id=eos_id,
        **family.scratch,
    )
    _set_dropout(family, config, model.dropout)
    _set_intermediate_size(config, model.intermediate_size or 4 * model.hidden_size)
    return config


def target_config(source: PretrainedConfig, target: TargetConfig) -> PretrainedConfig:
    """Return the source's configuration at the target's sizes.

    Sizes that the recipe leaves out follow the source: heads keep their dimension and the FFN its
    ratio to the hidden size. Raises UserError where the target is smaller or its heads do not divide.
    """
    old = sizes_of(source)
    hidden = target.hidden_size or old.hidden_size
    heads = target.num_attention_heads or max(1, hidden // old.head_dim)
    inner = target.intermediate_size or old.intermediate_size * hidden // old.hidden_size
    layers = target.num_hidden_layers or old.num_hidden_layers
    for key, value, least in (
        ("hidden_size", hidden, old.hidden_size),
        ("num_hidden_layers", layers, old.num_hidden_layers),
        ("num_attention_heads", heads, old.num_attention_heads),
        ("intermediate_size", inner, old.intermediate_size),
    ):
        if value < least:
            raise UserError(f"target.{key}: {value} is smaller than the source's {least}; growth only adds")
    if hidden % heads or hidden // heads != old.head_dim:
        raise UserError(
            f"target.num_attention_heads: {heads} heads over hidden_size {hidden} do not keep the source's head dimension "
            f"{old.head_dim}; hidden_size must be a multiple of it, with hidden_size / {old.head_dim} heads"
        )
    config = copy.deepcopy(source)
    config.hidden_size = hidden
    config.num_attention_heads = heads
    config.num_hidden_layers = layers
    _set_dropout(FAMILIES[config.model_type], config, target.dropout)
    _set_intermediate_size(config, inner)
    return config


def check_parameters(family: Family, config: PretrainedConfig) -> None:
    """Hold the family's table against the Hugging Face class's own parameter list.

    Raises RuntimeError naming the first tensor that either side lacks or shapes otherwise.
    """
    with torch.device("meta"):
        model: PreTrainedModel = family.model_class(config)
    sizes = sizes_of(config)
    ours = {name: sizes.shape(spec) for name, (spec, _) in family.specs(sizes).items()}
    theirs = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise RuntimeError(
                f"{family.model_class.__name__}: tensor {name} is {theirs.get(name, 'absent')} in this version of "
                f"transformers and {ours.get(name, 'absent')} in the table of family {family.name}"
            )


def _set_dropout(family: Family, config: PretrainedConfig, probability: float) -> None:
    for key in family.dropout:
        setattr(config, key, probability)


def _set_intermediate_size(config: PretrainedConfig, size: int) -> None:
    """GPT-2 calls it n_inner, and has no alias for it."""
    setattr(config, "n_inner" if config.model_type == "gpt2" else "intermediate_size", size)
