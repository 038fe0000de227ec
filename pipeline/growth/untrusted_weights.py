"""What lies in a model's directory in place of weights that can be grown: refused by what it is, with what makes them of it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from pipeline.common.config import read_json
from pipeline.common.errors import UserError
from pipeline.families import FLOATS, QUANTIZATION

_ADAPTER = "adapter_config.json"
_OWN_CODE = "auto_map"

_FORMATS = (
    (
        r".*\.gguf",
        "a GGUF file of llama.cpp's",
        "convert it: AutoModelForCausalLM.from_pretrained('{directory}', gguf_file='{name}').save_pretrained('OUT')",
    ),
    (
        r"consolidated\.\d+\.pth",
        "Meta's own format of Llama",
        "convert it with transformers 4: python -m transformers.models.llama.convert_llama_weights_to_hf --input_dir "
        "'{directory}' --output_dir OUT",
    ),
    (
        r"consolidated(-\d+-of-\d+)?\.safetensors",
        "Mistral's own format",
        "convert it with transformers 4: python -m transformers.models.mistral.convert_mistral_weights_to_hf --input_dir "
        "'{directory}' --output_dir OUT",
    ),
    (
        r"tf_model(-\d+-of-\d+)?\.h5|.*\.ckpt\.index|.*\.ckpt-\d+\.index",
        "TensorFlow's format",
        "convert it with transformers 4: AutoModel.from_pretrained('{directory}', from_tf=True).save_pretrained('OUT')",
    ),
    (
        r"flax_model(-\d+-of-\d+)?\.msgpack",
        "Flax's format",
        "convert it with transformers 4: AutoModel.from_pretrained('{directory}', from_flax=True).save_pretrained('OUT')",
    ),
    (r".*\.onnx|onnx", "ONNX, a model to run and not to train", "take the PyTorch model that it was exported from"),
    (r"openvino_model.*\.xml", "OpenVINO's format, to run and not to train", "take the model that it was exported from"),
    (r"rust_model\.ot", "rust-bert's format", "take the PyTorch model that it was converted from"),
    (
        r".*\.distcp|pytorch_model_fsdp.*",
        "a checkpoint of FSDP's, in shards",
        "merge it: accelerate merge-weights '{directory}' OUT",
    ),
    (
        r"model\.[\w-]+\.safetensors|pytorch_model\.[\w-]+\.bin",
        "a variant of the weights",
        "rename it to what it is without the variant, or save the model again with save_pretrained",
    ),
)
"""Names of files, what they are, and what to do; of several the first one that is found is named."""

_MERGE = (
    "merge it into its model: python -c \"from peft import AutoPeftModelForCausalLM as M; M.from_pretrained('{directory}')"
    ".merge_and_unload().save_pretrained('OUT')\""
)

_TENSORS = (
    (
        re.compile(r"(^|\.)lora_|(^|\.)base_layer\.|^base_model\.model\."),
        "those of a PEFT adapter beside its model",
        _MERGE,
    ),
    (
        re.compile(r"\.(absmax|quant_map|nested_absmax|nested_quant_map|SCB|weight_format)$|\.quant_state\."),
        "quantized by bitsandbytes",
        "convert them: AutoModelForCausalLM.from_pretrained('{directory}').dequantize().save_pretrained('OUT')",
    ),
    (
        re.compile(r"\.(qweight|qzeros|g_idx|scales)$"),
        "quantized as by GPTQ or AWQ",
        "grow the model that they were quantized from",
    ),
    (
        re.compile(r"\.(weight_scale(_inv)?|weight_packed|weight_shape|weight_zero_point|input_scale|[kv]_scale)$"),
        "quantized, as scales beside them say",
        "grow the model that they were quantized from, or save it again from transformers with a quantization_config that "
        "dequantizes",
    ),
    (
        re.compile(r"(^|\.)_?flat_param"),
        "FSDP's flat parameters",
        "save the model again with a full state dict (FULL_STATE_DICT)",
    ),
)
"""Names of tensors, what the weights are then, and what to do."""


def refuse_untrusted_files(directory: Path, usable: bool) -> None:
    """Refuse a directory of an adapter, and one that holds weights in other formats alone.

    `usable` says whether it has weights that can be read. Raises UserError.
    """
    names = sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []
    if _ADAPTER in names:
        base = read_json(directory / _ADAPTER, "").get("base_model_name_or_path")
        of_base = f" of {base!r}" if isinstance(base, str) else ""
        raise UserError(f"{directory / _ADAPTER}: a PEFT adapter{of_base} and no model; {_MERGE.format(directory=directory)}")
    if usable:
        return
    for pattern, what, remedy in _FORMATS:
        found = next((name for name in names if re.fullmatch(pattern, name)), None)
        if found is not None:
            raise UserError(f"{directory / found}: {what}; {remedy.format(directory=directory, name=found)}")


def refuse_untrusted_name(path: Path, name: str) -> None:
    """Refuse a tensor whose name says that the weights are an adapter's, quantized or flattened; raises UserError."""
    for pattern, what, remedy in _TENSORS:
        if pattern.search(name):
            raise UserError(f"{path}: tensor {name!r}: the weights are {what}; {remedy.format(directory=path.parent)}")


def refuse_untrusted_values(path: Path, name: str, tensor: torch.Tensor) -> None:
    """Refuse a tensor that is not plain numbers of a floating-point dtype; raises UserError naming it."""
    if tensor.device.type == "meta":
        raise UserError(
            f"{path}: tensor {name!r} has no values, having been saved from torch's meta device; save the model again"
        )
    if tensor.layout is not torch.strided:
        raise UserError(f"{path}: tensor {name!r} is sparse; save it as tensor.to_dense()")
    if tensor.dtype not in FLOATS.values():
        stored = str(tensor.dtype).removeprefix("torch.")
        kind = "complex or boolean" if tensor.is_complex() or tensor.dtype is torch.bool else "quantized"
        raise UserError(
            f"{path}: tensor {name!r} is stored as {stored}; {kind} weights cannot be grown, save the model in one of "
            f"{', '.join(FLOATS)}"
        )


def quantized_by(config: PretrainedConfig) -> str | None:
    """Return how a configuration says that its weights are quantized; None where it says nothing of it."""
    said: Mapping[str, Any] | None = getattr(config, QUANTIZATION, None)
    if said is None:
        return None
    bits = said.get("bits", said.get("w_bit"))
    bits = 8 if said.get("load_in_8bit") else 4 if said.get("load_in_4bit") else bits
    method = str(said.get("quant_method") or ("bitsandbytes" if "load_in_4bit" in said else "an unnamed method"))
    return method + (f", {bits} bits" if isinstance(bits, int) else "")


def forget_stale(config: PretrainedConfig) -> list[str]:
    """Take out of a configuration what is not so of plain weights read by the stock class; return what there is to say of it.

    That is its quantization, and code of the model's own, which is never run.
    """
    said = []
    if (method := quantized_by(config)) is not None:
        said.append(f"config.json has a {QUANTIZATION} ({method}), and the weights are plain: the key is left out")
    if getattr(config, _OWN_CODE, None):
        said.append(
            f"config.json names code of the model's own ({_OWN_CODE}), which is not run: it is read as a stock "
            f"{config.model_type}"
        )
    for key in (QUANTIZATION, _OWN_CODE):
        if hasattr(config, key):
            delattr(config, key)
    return said
