"""What each tensor of a Hugging Face model is, and GPT-2's tensors as those of other models stand."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_GPT2 = {
    "wte": "words",
    "wpe": "positions",
    "ln_[12]": "norm",
    **{f"c_attn#{part}": role for part, role in enumerate("qkv")},
    r"attn\.c_proj": "o",
    "c_fc": "up",
    r"mlp\.c_proj": "down",
    "ln_f": "final_norm",
    "lm_head": "logits",
}
_ENCODER = {
    "word_embeddings": "words",
    "position_embeddings": "positions",
    "token_type_embeddings": "segments",
    r"transform\.LayerNorm|lm_head\.layer_norm": "final_norm",
    "LayerNorm": "norm",
    **{rf"self\.{part}": part[0] for part in ("query", "key", "value")},
    r"attention\.output\.dense": "o",
    r"intermediate\.dense": "up",
    r"output\.dense": "down",
    r"pooler\.dense": "pool",
    r"(transform|lm_head)\.dense": "transform",
    "seq_relationship": "pair",
    r"decoder|cls\.predictions|lm_head": "logits",
}
_DECODER = {
    "embed_tokens": "words",
    "layernorm": "norm",
    **{f"{part}_proj": part for part in "qkvo"},
    **{f"{part}_norm": f"{part}_norm" for part in "qk"},
    "(gate|up)_proj": "up",
    "down_proj": "down",
    r"model\.norm": "final_norm",
    "lm_head": "logits",
}
"""What the modules of each architecture are, by the end of their names."""
_ROLES = {"gpt2": _GPT2, "bert": _ENCODER, "roberta": _ENCODER}


def role_of(family: str, name: str) -> str:
    """What a tensor of a Hugging Face model is: of a norm its gain or shift, else a matrix, or its bias."""
    module, kind, part = re.fullmatch(r"(.+)\.(weight|bias)(#\d)?", name).groups("")
    modules = _ROLES.get(family, _DECODER).items()
    role = next(role for pattern, role in modules if re.search(rf"(?:{pattern})$", module + part))
    if role.endswith("norm"):
        return role.removesuffix("norm") + ("gain" if kind == "weight" else "shift")
    return role if kind == "weight" else f"{role}_bias"


def split(family: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """GPT-2's Conv1D matrices transposed to [out, in] and its c_attn cut into `name#0` query, `#1` key, `#2` value."""
    if family != "gpt2":
        return dict(tensors)
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        turned = tensor.T if re.search(r"\.(c_attn|c_proj|c_fc)\.weight$", name) else tensor
        if ".c_attn." in name:
            plain |= {f"{name}#{part}": piece for part, piece in enumerate(turned.chunk(3))}
        else:
            plain[name] = turned
    return plain


def join(family: str, plain: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `split`."""
    if family != "gpt2":
        return plain
    tensors: dict[str, Tensor] = {}
    for name in plain:
        whole = name.split("#")[0]
        if whole in tensors:
            continue
        tensor = torch.cat([plain[f"{whole}#{part}"] for part in range(3)]) if "#" in name else plain[name]
        tensors[whole] = tensor.T.contiguous() if re.search(r"\.(c_attn|c_proj|c_fc)\.weight$", whole) else tensor
    return tensors
