"""Rotary positions as a configuration says them: one set of parameters, or one for each type of layer."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from pipeline.families.base import Family
from pipeline.families.layer_lists import of_layers

ROPE_OF_PAIRS = ("default", "linear", "llama3")
"""Types whose frequencies depend on the pair's share of the head alone, so that a pair keeps its own in a head of any
multiple, and on no number of positions that growth changes."""


def rope_sets(config: PretrainedConfig) -> dict[str, Mapping[str, Any]]:
    """Return the sets of rotary parameters by the key under which a message names them.

    Gemma-3 and OLMo-3 have one for each type of layer.
    """
    rope = config.rope_parameters or {}
    types = getattr(config, "layer_types", None) or ()
    nested = {key: value for key, value in rope.items() if isinstance(value, Mapping) and key in types}
    if not nested:
        return {"rope_parameters": rope}
    return {f"rope_parameters.{key}": value for key, value in nested.items()}


def rotary_module(family: Family, config: PretrainedConfig) -> nn.Module:
    """Return the class's own module that makes cosines and sines of positions, with its frequencies."""
    few = of_layers(family, config, [0])
    with torch.device("meta"):
        model = family.model_class(few)
    made = next(type(module) for name, module in model.named_modules() if name.endswith("rotary_emb"))
    return made(config)
