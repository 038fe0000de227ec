"""The table of Llama and of what follows it: pre-RMSNorm decoders, rotary positions, grouped queries, gated FFN."""

import re
from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from pipeline.families.base import (
    FFN,
    FFN_IN,
    HIDDEN,
    HIDDEN_IN,
    LOGITS,
    MIXED_IN,
    TASK_HEADS,
    Axis,
    AxisKind,
    Family,
    TensorSpec,
)

_QUERY = Axis(AxisKind.HEADS, "out", ("query",))
_KEY = Axis(AxisKind.KV_HEADS, "out", ("key",))
_VALUE = Axis(AxisKind.KV_HEADS, "out", ("value",))

_LAYER = "model.layers.{layer}."
_ATTENTION = _LAYER + "self_attn."
_WORDS = "model.embed_tokens.weight"


def _gain(name: str, block: str = "layer", *, axis: Axis = HIDDEN, final_norm: bool = False) -> TensorSpec:
    return TensorSpec(name + ".weight", (axis,), "ones", block, norm="gain", final_norm=final_norm)


def _matrix(name: str, out: Axis, into: Axis, *, writes: bool = False) -> TensorSpec:
    return TensorSpec(name + ".weight", (out, into), "normal", "layer", writes_residual=writes)


def _projection(name: str, out: Axis, *, bias: bool) -> tuple[TensorSpec, ...]:
    matrix = _matrix(name, out, HIDDEN_IN)
    return (matrix, TensorSpec(name + ".bias", (out,), "zeros", "layer")) if bias else (matrix,)


def _head_gain(name: str, part: str) -> TensorSpec:
    return _gain(name, axis=Axis(AxisKind.HEAD_DIM, "out", (part,)))


def decoder_tensors(*, attention_bias: bool = False, qk_norm: bool = False) -> tuple[TensorSpec, ...]:
    """Return the tied tensors: `attention_bias` on query, key and value (Qwen2), `qk_norm` over each head (Qwen3)."""
    head_gains = (_head_gain(_ATTENTION + "q_norm", "query"), _head_gain(_ATTENTION + "k_norm", "key"))
    return (
        TensorSpec(_WORDS, (Axis(AxisKind.VOCAB, "index"), HIDDEN), "normal", "embeddings"),
        _gain(_LAYER + "input_layernorm"),
        *_projection(_ATTENTION + "q_proj", _QUERY, bias=attention_bias),
        *_projection(_ATTENTION + "k_proj", _KEY, bias=attention_bias),
        *_projection(_ATTENTION + "v_proj", _VALUE, bias=attention_bias),
        *(head_gains if qk_norm else ()),
        _matrix(_ATTENTION + "o_proj", HIDDEN, MIXED_IN, writes=True),
        _gain(_LAYER + "post_attention_layernorm"),
        _matrix(_LAYER + "mlp.gate_proj", FFN, HIDDEN_IN),
        _matrix(_LAYER + "mlp.up_proj", FFN, HIDDEN_IN),
        _matrix(_LAYER + "mlp.down_proj", HIDDEN, FFN_IN, writes=True),
        _gain("model.norm", "head", final_norm=True),
    )


def decoder(
    name: str,
    model_class: type[PreTrainedModel],
    config_class: type[PretrainedConfig],
    tensors: tuple[TensorSpec, ...],
    refused: Mapping[str, tuple[Any, ...]],
) -> Family:
    """Return a family of this kind; `refused` is what its configuration may not say besides."""
    return Family(
        name=name,
        model_class=model_class,
        config_class=config_class,
        objective="clm",
        norm="rms_norm",
        pre_norm=True,
        rotary=True,
        position_offset=0,
        layers="model.layers",
        head_module="model.norm",
        tensors=tensors,
        untied_head=(TensorSpec("lm_head.weight", (LOGITS, HIDDEN_IN), "normal", "head"),),
        tied_head=_WORDS,
        head_alias={"lm_head.weight": _WORDS},
        lm_head="lm_head",
        # The classes for question answering call the model `transformer`.
        published=((re.compile(r"^(transformer\.)?(?=(embed_tokens|layers|norm|rotary_emb)\.)"), "model."),),
        # The rotary frequencies.
        buffers=re.compile(r"\.rotary_emb\.inv_freq$"),
        other_heads=re.compile(TASK_HEADS),
        scratch={},
        dropout=("attention_dropout",),
        kept=("hidden_act", "rms_norm_eps", "rope_parameters", "sliding_window"),
        refused={"rope_parameters.partial_rotary_factor": (1.0, None), **refused},
    )
