"""A Hugging Face config.json: read, and held to what its class and its family need, in one place for all readers."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import PretrainedConfig

from pipeline.common.config import read_json
from pipeline.common.errors import UserError, one_line
from pipeline.families.base import depth_keys
from pipeline.families.consistency import MOST_LAYERS, check_config
from pipeline.families.registry import FAMILIES, family_of
from pipeline.families.tensor_names import likely

FLOATS = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}
"""The dtypes that weights may have, by name."""

QUANTIZATION = "quantization_config"
"""The key that says how weights were quantized."""

_NOT_READ = (
    *("attn_implementation", "chunk_size_feed_forward", "experts_implementation", "id2label", "label2id", "num_labels"),
    *("output_attentions", "output_hidden_states", "problem_type", "return_dict", "torchscript", "use_return_dict"),
)
"""Keys that say what a call returns, by which kernels, and what a classifier's labels are. They do not belong to the
language model, and are not read."""

_CHANGES_LAYERS = ("per_layer_config", "pruned_heads")
"""Keys that make layers differ from each other."""


def read_config(path: Path, tensors: Callable[[], Iterable[str]] = tuple) -> PretrainedConfig:
    """Return the configuration in a Hugging Face config.json, of a known family, from which the class builds a model.

    `tensors` gives the names of the weights beside it, by which a family is suggested where the file names none. What the
    file says of quantization stays. Raises UserError naming the file, and the key where it is known.
    """
    content = read_json(path, "a Hugging Face model directory has one")
    name = content.pop("model_type", None)
    if name is None:
        raise UserError(f"{path}: has no model_type; {_suggestion(content.get('architectures'), tensors)}")
    if not isinstance(name, str) or name not in FAMILIES:
        raise UserError(f"{path}: model_type {name!r} is not known; known are {', '.join(FAMILIES)}")
    family = FAMILIES[name]
    config = _constructed(path, name, _checked(path, content, family.config_class))
    check_config(family_of(config, str(path)), config, str(path))
    return config


def _suggestion(architectures: Any, tensors: Callable[[], Iterable[str]]) -> str:
    """What to do where the model's type is not named."""
    named = [architecture for architecture in architectures or () if isinstance(architecture, str)]
    for family in FAMILIES.values():
        begin = family.config_class.__name__.removesuffix("Config")
        for architecture in named:
            if re.fullmatch(rf"{begin}(Model|For|LMHead|DoubleHeads)\w*", architecture):
                return f'add "model_type": "{family.name}", the family of its architectures ({architecture})'
    found = likely(FAMILIES.values(), tensors())
    if found:
        return f'add "model_type": "{found[0]}"{"".join(f" or {name!r}" for name in found[1:])}, by its tensors\' names'
    return f"add the key, which is one of {', '.join(FAMILIES)}"


def _checked(path: Path, content: dict[str, Any], config_class: type[PretrainedConfig]) -> dict[str, Any]:
    """Return the keys that are the model's; raises UserError for values that the class would take and stumble over."""
    fields = config_class.__dataclass_fields__
    kept = {}
    for key, value in content.items():
        known = getattr(config_class, key, None)
        own = key in fields or known is None or (isinstance(known, property) and known.fset is not None)
        # What else the class has of that name is its code.
        if own and key not in _NOT_READ and not key.startswith("_"):
            kept[key] = value
    for key in _CHANGES_LAYERS:
        if kept.get(key):
            raise UserError(
                f"{path}: {key}: {str(kept[key])[:80]} makes layers of different shapes, which growth does not know"
            )
    architectures = kept.get("architectures")
    strings = isinstance(architectures, list) and all(isinstance(item, str) for item in architectures)
    if architectures is not None and not strings:
        raise UserError(f"{path}: architectures: a list of class names is expected, and the value is {architectures!r}")
    if not isinstance(kept.get(QUANTIZATION) or {}, dict):
        raise UserError(f"{path}: {QUANTIZATION}: a mapping is expected, and the value is {kept[QUANTIZATION]!r}")
    depths = depth_keys(config_class)
    for key in {*depths, *(config_class.attribute_map.get(key, key) for key in depths)}:
        if isinstance(kept.get(key), int) and kept[key] > MOST_LAYERS:
            raise UserError(
                f"{path}: {key}: {kept[key]} is more than the {MOST_LAYERS} that are read; put the model's own there"
            )
    given = [kept.pop(key, None) for key in ("dtype", "torch_dtype")]
    dtype = next((value for value in given if value is not None), None)
    # `auto` stands for what is stored, as no key does.
    return kept if dtype in (None, "auto") else kept | {"dtype": _float(path, dtype)}


def _float(path: Path, value: Any) -> str:
    """Return the name of a dtype as transformers reads it."""
    dtype = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else None
    for name, known in FLOATS.items():
        if dtype is known:
            return name
    raise UserError(f"{path}: dtype: {value!r} is no dtype that weights can have; write {', '.join(FLOATS)}, or leave it out")


def _constructed(path: Path, model_type: str, content: dict[str, Any]) -> PretrainedConfig:
    try:
        return FAMILIES[model_type].configuration(**content)
    except StrictDataclassFieldValidationError as error:
        field = str(error).split("'")[1]
        raise UserError(f"{path}: {field}: {one_line(error.__cause__)}; put the model's own value there") from None
    except StrictDataclassClassValidationError as error:
        raise UserError(f"{path}: {one_line(error.__cause__).rstrip('.')}; put the model's own values there") from None
    except Exception as error:  # the class computes with values of any type before it checks them
        name = FAMILIES[model_type].config_class.__name__
        raise UserError(f"{path}: no configuration that {name} takes ({one_line(error)}); copy the file again") from None
