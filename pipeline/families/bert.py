"""BERT with its masked-language-model head: post-LN, learned positions, segments."""

import re

from transformers import BertConfig, BertForMaskedLM

from pipeline.families.base import Axis, AxisKind, Family, TensorSpec

_HIDDEN_IN = Axis(AxisKind.RESIDUAL, "in")
_HIDDEN = Axis(AxisKind.RESIDUAL, "out")
_HEADS_IN = Axis(AxisKind.HEADS, "in", ("value",))
_QUERY = Axis(AxisKind.HEADS, "out", ("query",))
_KEY = Axis(AxisKind.HEADS, "out", ("key",))
_VALUE = Axis(AxisKind.HEADS, "out", ("value",))
_FFN_IN = Axis(AxisKind.FFN, "in")
_FFN = Axis(AxisKind.FFN, "out")
_VOCAB = Axis(AxisKind.VOCAB, "out")

_EMBEDDINGS = "bert.embeddings."
_LAYER = "bert.encoder.layer.{layer}."
_HEAD = "cls.predictions."


def _norm(name: str, block: str, *, final_norm: bool = False) -> tuple[TensorSpec, TensorSpec]:
    return (
        TensorSpec(name + ".weight", (_HIDDEN,), "ones", block, norm="gain", final_norm=final_norm),
        TensorSpec(name + ".bias", (_HIDDEN,), "zeros", block, norm="bias", final_norm=final_norm),
    )


def _linear(name: str, out: Axis, into: Axis, block: str = "layer", *, writes: bool = False) -> tuple[TensorSpec, TensorSpec]:
    return (
        TensorSpec(name + ".weight", (out, into), "normal", block, writes_residual=writes),
        TensorSpec(name + ".bias", (out,), "zeros", block, writes_residual=writes),
    )


BERT = Family(
    name="bert",
    model_class=BertForMaskedLM,
    config_class=BertConfig,
    objective="mlm",
    norm="layer_norm",
    pre_norm=False,
    rotary=False,
    position_offset=0,
    layers="bert.encoder.layer",
    tensors=(
        TensorSpec(_EMBEDDINGS + "word_embeddings.weight", (Axis(AxisKind.VOCAB, "index"), _HIDDEN), "normal", "embeddings"),
        TensorSpec(
            _EMBEDDINGS + "position_embeddings.weight", (Axis(AxisKind.POSITIONS, "index"), _HIDDEN), "normal", "embeddings"
        ),
        TensorSpec(
            _EMBEDDINGS + "token_type_embeddings.weight",
            (Axis(AxisKind.SEGMENTS, "index"), _HIDDEN),
            "normal",
            "embeddings",
        ),
        *_norm(_EMBEDDINGS + "LayerNorm", "embeddings"),
        *_linear(_LAYER + "attention.self.query", _QUERY, _HIDDEN_IN),
        *_linear(_LAYER + "attention.self.key", _KEY, _HIDDEN_IN),
        *_linear(_LAYER + "attention.self.value", _VALUE, _HIDDEN_IN),
        *_linear(_LAYER + "attention.output.dense", _HIDDEN, _HEADS_IN, writes=True),
        *_norm(_LAYER + "attention.output.LayerNorm", "layer"),
        *_linear(_LAYER + "intermediate.dense", _FFN, _HIDDEN_IN),
        *_linear(_LAYER + "output.dense", _HIDDEN, _FFN_IN, writes=True),
        *_norm(_LAYER + "output.LayerNorm", "layer"),
        *_linear(_HEAD + "transform.dense", _HIDDEN, _HIDDEN_IN, "head"),
        *_norm(_HEAD + "transform.LayerNorm", "head", final_norm=True),
        TensorSpec(_HEAD + "bias", (_VOCAB,), "zeros", "head"),
    ),
    # transformers unties the output bias with the matrix, and then leaves `cls.predictions.bias` unused.
    untied_head=_linear(_HEAD + "decoder", _VOCAB, _HIDDEN_IN, "head"),
    tied_head=_EMBEDDINGS + "word_embeddings.weight",
    head_alias={
        _HEAD + "decoder.weight": _EMBEDDINGS + "word_embeddings.weight",
        _HEAD + "decoder.bias": _HEAD + "bias",
    },
    published=(
        (re.compile(r"^(?=(embeddings|encoder|pooler)\.)"), "bert."),
        (re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"),
        (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"),
    ),
    # The pooler and the next-sentence head serve no masked language modelling; position_ids is a range.
    ignored=re.compile(r"^bert\.pooler\.|^cls\.seq_relationship\.|\.position_ids$"),
    scratch={},
    dropout=("hidden_dropout_prob", "attention_probs_dropout_prob"),
    refused={
        "is_decoder": (False,),
        "add_cross_attention": (False,),
    },
)
