"""The families that can be grown, found by name and held against Hugging Face's classes."""

from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel

from pipeline.common.errors import UserError
from pipeline.families.base import Family
from pipeline.families.bert import BERT, BERT_PAIRS, DISTILBERT, ROBERTA
from pipeline.families.cohere import COHERE, COHERE2
from pipeline.families.deepseek import DEEPSEEK_V3
from pipeline.families.gemma import GEMMA2, GEMMA3
from pipeline.families.gpt2 import GPT2
from pipeline.families.gpt_neox import GPT_NEOX
from pipeline.families.graph import Model
from pipeline.families.llama import GRANITE, LLAMA, MISTRAL, QWEN2, QWEN3, SMOLLM3
from pipeline.families.mixture import MIXTRAL, OLMOE, QWEN2_MOE, QWEN3_MOE
from pipeline.families.modernbert import MODERNBERT
from pipeline.families.olmo2 import OLMO2, OLMO3
from pipeline.families.phi3 import PHI3
from pipeline.families.rope import rope_sets
from pipeline.families.stablelm import STABLELM
from pipeline.families.starcoder2 import STARCODER2
from pipeline.families.t5 import T5

_ALL = (
    *(GPT2, BERT, ROBERTA, DISTILBERT, MODERNBERT, LLAMA, MISTRAL, QWEN2, QWEN3),
    *(MIXTRAL, QWEN2_MOE, QWEN3_MOE, OLMOE, DEEPSEEK_V3),
    *(COHERE, COHERE2, GEMMA2, GEMMA3, GPT_NEOX, GRANITE, OLMO2, OLMO3, PHI3, SMOLLM3, STABLELM, STARCODER2, T5),
)

FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
"""By `model_type`, each with its language model's head."""

TRAINED: dict[str, Family] = {name: family for name, family in FAMILIES.items() if family.trained}
"""Those that the pipeline has an objective for."""

PAIR_FAMILIES: dict[str, Family] = {BERT_PAIRS.name: BERT_PAIRS}
"""Those that also have a head on sentence pairs."""


def family_of(config: PretrainedConfig, origin: str = "config.json") -> Family:
    """Return the family of a Hugging Face configuration; raises UserError for one that is not known.

    A configuration whose `architectures` names a class with a head on sentence pairs is of the family that has one.
    """
    family = FAMILIES.get(config.model_type)
    paired = PAIR_FAMILIES.get(config.model_type)
    if paired is not None and paired.model_class.__name__ in (config.architectures or ()):
        family = paired
    if family is None:
        raise UserError(f"{origin}: model_type {config.model_type!r} is not known; known are {', '.join(FAMILIES)}")
    for key, values in family.refused.items():
        for place, value in _values(config, key, values[0]).items():
            if value not in values:
                raise UserError(f"{origin}: {place}: {value!r} is not supported; set it to {values[0]!r}")
    return family


def _values(config: PretrainedConfig, key: str, default: Any) -> dict[str, Any]:
    """Return what a configuration holds under a key, by its whole name; each set of rotary parameters has its own."""
    inner = key.removeprefix("rope_parameters.")
    if inner == key:
        return {key: getattr(config, key, default)}
    return {f"{name}.{inner}": rope.get(inner, default) for name, rope in rope_sets(config).items()}


def check_trained(family: Family, origin: str) -> None:
    """Refuse a family whose models the pipeline does not train; raises UserError, which begins with `origin`."""
    if not family.trained:
        raise UserError(f"{origin}: {family.name} {family.untrained}; grow its weights with launch/grow.py --format hf")


def graph_of(config: PretrainedConfig) -> Model:
    """Return what a model of a known family is made of."""
    return family_of(config).graph(config)


def held_by(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the parameters of a class's model, and the buffers that its files hold, by name."""
    stored = model.state_dict().keys()
    return dict(model.named_parameters()) | {name: buffer for name, buffer in model.named_buffers() if name in stored}


def check_parameters(family: Family, config: PretrainedConfig) -> None:
    """Hold the family's graph against the Hugging Face class's own parameters and stored buffers.

    Raises RuntimeError naming the first tensor that either side lacks or shapes otherwise.
    """
    with torch.device("meta"):
        model = family.model(config)
    graph = family.graph(config)
    ours = graph.parameter_shapes()
    theirs = {name: tuple(tensor.shape) for name, tensor in held_by(model).items()}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise RuntimeError(
                f"{family.model_class.__name__}: tensor {name} is {theirs.get(name, 'absent')} in the class of transformers "
                f"{transformers.__version__} and {ours.get(name, 'absent')} in the graph of family {family.name}"
            )
