"""Rotary positions as a configuration says them: one set of parameters, or one for each type of layer."""

from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig


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
