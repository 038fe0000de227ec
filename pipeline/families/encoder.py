"""The table of BERT and of what follows it: post-LN encoders with learned positions and a masked-language-model head."""

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
    POOLED,
    POOLED_IN,
    TASK_HEADS,
    VERDICTS,
    Axis,
    AxisKind,
    Family,
    TensorSpec,
)

_QUERY = Axis(AxisKind.HEADS, "out", ("query",))
_KEY = Axis(AxisKind.HEADS, "out", ("key",))
_VALUE = Axis(AxisKind.HEADS, "out", ("value",))


def _norm(name: str, block: str, *, final_norm: bool = False) -> tuple[TensorSpec, TensorSpec]:
    return (
        TensorSpec(name + ".weight", (HIDDEN,), "ones", block, norm="gain", final_norm=final_norm),
        TensorSpec(name + ".bias", (HIDDEN,), "zeros", block, norm="bias", final_norm=final_norm),
    )


def _linear(name: str, out: Axis, into: Axis, block: str = "layer", *, writes: bool = False) -> tuple[TensorSpec, TensorSpec]:
    return (
        TensorSpec(name + ".weight", (out, into), "normal", block, writes_residual=writes),
        TensorSpec(name + ".bias", (out,), "zeros", block, writes_residual=writes),
    )


def _embedding(name: str, kind: AxisKind) -> TensorSpec:
    return TensorSpec(name + ".weight", (Axis(kind, "index"), HIDDEN), "normal", "embeddings")


def encoder(
    name: str,
    model_class: type[PreTrainedModel],
    config_class: type[PretrainedConfig],
    *,
    head: str,
    transform: str,
    transform_norm: str,
    pair_head: str | None = None,
    position_offset: int = 0,
    scratch: Mapping[str, Any] | None = None,
    kept: tuple[str, ...] = (),
    refused: Mapping[str, tuple[Any, ...]] | None = None,
) -> Family:
    """Return the family whose base model is called `name` and whose head's tensors have the names given.

    `pair_head` judges pairs of sentences by the pooled first token; without one, published poolers are no part of the model.
    """
    embeddings, layer = f"{name}.embeddings.", name + ".encoder.layer.{layer}."
    words = embeddings + "word_embeddings"
    return Family(
        name=name,
        model_class=model_class,
        config_class=config_class,
        objective="mlm",
        norm="layer_norm",
        pre_norm=False,
        rotary=False,
        position_offset=position_offset,
        layers=f"{name}.encoder.layer",
        head_module=head.removesuffix("."),
        tensors=(
            _embedding(words, AxisKind.VOCAB),
            _embedding(embeddings + "position_embeddings", AxisKind.POSITIONS),
            _embedding(embeddings + "token_type_embeddings", AxisKind.SEGMENTS),
            *_norm(embeddings + "LayerNorm", "embeddings"),
            *_linear(layer + "attention.self.query", _QUERY, HIDDEN_IN),
            *_linear(layer + "attention.self.key", _KEY, HIDDEN_IN),
            *_linear(layer + "attention.self.value", _VALUE, HIDDEN_IN),
            *_linear(layer + "attention.output.dense", HIDDEN, MIXED_IN, writes=True),
            *_norm(layer + "attention.output.LayerNorm", "layer"),
            *_linear(layer + "intermediate.dense", FFN, HIDDEN_IN),
            *_linear(layer + "output.dense", HIDDEN, FFN_IN, writes=True),
            *_norm(layer + "output.LayerNorm", "layer"),
            *_linear(head + transform, HIDDEN, HIDDEN_IN, "head"),
            *_norm(head + transform_norm, "head", final_norm=True),
            TensorSpec(head + "bias", (LOGITS,), "zeros", "head"),
            *(_pair_tensors(name, pair_head) if pair_head else ()),
        ),
        # transformers unties the output bias with the matrix, and then leaves the head's own bias unused.
        untied_head=_linear(head + "decoder", LOGITS, HIDDEN_IN, "head"),
        tied_head=words + ".weight",
        lm_head=head.removesuffix("."),
        head_alias={head + "decoder.weight": words + ".weight", head + "decoder.bias": head + "bias"},
        published=(
            (re.compile(r"^(?=(embeddings|encoder|pooler)\.)"), name + "."),
            (re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"),
            (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"),
        ),
        # A range.
        buffers=re.compile(r"\.position_ids$"),
        other_heads=re.compile(TASK_HEADS + ("" if pair_head else rf"|^({name}\.pooler|cls\.seq_relationship)(?=\.)")),
        scratch=scratch or {},
        dropout=("hidden_dropout_prob", "attention_probs_dropout_prob"),
        kept=("hidden_act", "layer_norm_eps", "type_vocab_size", *kept),
        refused={
            "is_decoder": (False,),
            "add_cross_attention": (False,),
            # Of earlier versions, which had relative ones too.
            "position_embedding_type": ("absolute", None),
            **(refused or {}),
        },
        # BertForPreTraining names its two outputs.
        logits="prediction_logits" if pair_head else "logits",
        pair_logits="seq_relationship_logits" if pair_head else None,
        pooler=f"{name}.pooler" if pair_head else None,
    )


def _pair_tensors(name: str, pair_head: str) -> tuple[TensorSpec, ...]:
    return (
        *_linear(f"{name}.pooler.dense", POOLED, HIDDEN_IN, "head"),
        *_linear(pair_head, VERDICTS, POOLED_IN, "head"),
    )
