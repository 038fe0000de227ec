"""BERT, RoBERTa and DistilBERT: post-LN encoders with learned positions and a masked-language-model head."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from transformers import (
    BertForMaskedLM,
    BertForPreTraining,
    DistilBertForMaskedLM,
    PretrainedConfig,
    PreTrainedModel,
    RobertaForMaskedLM,
)

from pipeline.families.base import TASK_HEADS, Family
from pipeline.families.graph import Attention, Branch, Head, Layer, Model, Pooler, Stack
from pipeline.families.nodes import attention_output, layer_norm, linear, plain_mlp, port_sizes, query_key_value, score
from pipeline.families.primitives import Embedding, Linear
from pipeline.families.tensors import RESIDUAL, STREAM, Axis

_POOLED = Axis.of("pooled")
_PORTS = {"word_embeddings": "vocab", "position_embeddings": "positions", "token_type_embeddings": "segments"}
"""Of the rows of the embeddings, by the names of those."""


class LayerNames(NamedTuple):
    """What a class calls the modules of a layer."""

    query_key_value: tuple[str, str, str]
    mixed: str
    mixed_norm: str
    up: str
    down: str
    norm: str


_BERT_LAYER = LayerNames(
    query_key_value=("attention.self.query", "attention.self.key", "attention.self.value"),
    mixed="attention.output.dense",
    mixed_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    norm="output.LayerNorm",
)
_DISTILBERT_LAYER = LayerNames(
    query_key_value=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    mixed="attention.out_lin",
    mixed_norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    norm="output_layer_norm",
)


class HeadNames(NamedTuple):
    """What a class calls the modules of the head, and the bias of a head whose matrix is tied, where that has another name."""

    transform: str
    norm: str
    output: str
    tied_bias: str | None = None


def encoder(
    model_class: type[PreTrainedModel],
    head: HeadNames,
    *,
    lm_head: tuple[str, ...],
    layers: str = "encoder.layer",
    names: LayerNames = _BERT_LAYER,
    pair_head: str | None = None,
    other_heads: str = TASK_HEADS,
    refused: Mapping[str, tuple[Any, ...]],
    **others: Any,
) -> Family:
    """Return the family of a class, whose tensors have the names given.

    `pair_head` judges pairs of sentences by the pooled first token; without one, published poolers are no part of the model.
    """
    name = model_class.base_model_prefix
    inner = layers.partition(".")[0]
    return Family(
        model_class=model_class,
        objective="mlm",
        graph=partial(_graph, name=name, layers=f"{name}.{layers}", names=names, head=head, pair_head=pair_head),
        layers=f"{name}.{layers}",
        head_module=lm_head[0],
        words=f"{name}.embeddings.word_embeddings.weight",
        output=f"{head.output}.weight",
        output_bias=head.tied_bias and f"{head.output}.bias",
        tied_output_bias=head.tied_bias,
        lm_head=lm_head,
        published=(
            (re.compile(rf"^(?=(embeddings|{inner}|pooler)\.)"), name + "."),
            (re.compile(r"LayerNorm\.gamma$"), "LayerNorm.weight"),
            (re.compile(r"LayerNorm\.beta$"), "LayerNorm.bias"),
        ),
        # A range.
        buffers=re.compile(r"\.position_ids$"),
        other_heads=re.compile(other_heads + ("" if pair_head else rf"|^({name}\.pooler|cls\.seq_relationship)(?=\.)")),
        refused=refused,
        # BertForPreTraining names its two outputs.
        logits="prediction_logits" if pair_head else "logits",
        pair_logits="seq_relationship_logits" if pair_head else None,
        pooler=f"{name}.pooler" if pair_head else None,
        **others,
    )


def _graph(
    config: PretrainedConfig, *, name: str, layers: str, names: LayerNames, head: HeadNames, pair_head: str | None
) -> Model:
    std, tied, embeddings = config.initializer_range, config.tie_word_embeddings, f"{name}.embeddings."
    sizes = port_sizes(config) | {"positions": config.max_position_embeddings}
    sizes |= {"segments": config.type_vocab_size} if hasattr(type(config), "type_vocab_size") else {}
    # transformers unties the output bias with the matrix, and then leaves the head's own bias unused.
    biases = (head.tied_bias,) if head.tied_bias and tied else (head.tied_bias, f"{head.output}.bias")
    return Model(
        sizes | ({"pooled": sizes[RESIDUAL], "pair_classes": 2} if pair_head else {}),
        Stack(
            tuple(Embedding(f"{embeddings}{table}.weight", port, std) for table, port in _PORTS.items() if port in sizes),
            tuple(_layer(f"{layers}.{number}.", config, names) for number in range(config.num_hidden_layers)),
            embedding_norm=layer_norm(embeddings + "LayerNorm"),
        ),
        Head(
            f"{embeddings}word_embeddings.weight" if tied else f"{head.output}.weight",
            tied,
            biases=tuple(bias for bias in biases if bias is not None),
            transform=linear(head.transform, STREAM, init=std, bias=True),
            norm=layer_norm(head.norm),
            init=std,
        ),
        _pooler(name, pair_head, std) if pair_head else None,
    )


def _layer(prefix: str, config: PretrainedConfig, names: LayerNames) -> Layer:
    options: dict[str, Any] = {"init": config.initializer_range, "bias": True}
    attention = Attention(
        query_key_value(prefix, names.query_key_value, **options),
        attention_output(prefix + names.mixed, **options),
        score=score(config),
    )
    return Layer.sequential(
        Branch(attention, ends=layer_norm(prefix + names.mixed_norm)),
        Branch(plain_mlp(prefix + names.up, prefix + names.down, **options), ends=layer_norm(prefix + names.norm)),
    )


def _pooler(name: str, pair_head: str, std: float) -> Pooler:
    # Its channels are copied as the stream's are, and no norm reads them.
    return Pooler(
        linear(f"{name}.pooler.dense", _POOLED, init=std, bias=True),
        Linear(f"{pair_head}.weight", Axis.of("pair_classes"), _POOLED, f"{pair_head}.bias", init=std),
    )


_KEPT = ("hidden_act", "layer_norm_eps", "type_vocab_size")
_DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob")
_REFUSED: dict[str, tuple[Any, ...]] = {
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    # Of earlier versions, which had relative ones too.
    "position_embedding_type": ("absolute", None),
}
_PADDING = 1
"""RoBERTa's padding token's id. RobertaEmbeddings gives a token that is padding the position row of this number, and counts the
others' positions from the row behind it."""

BERT, BERT_PAIRS = (
    encoder(
        model_class,
        HeadNames(*(f"cls.predictions.{module}" for module in ("transform.dense", "transform.LayerNorm", "decoder", "bias"))),
        lm_head=("cls.predictions",),
        pair_head=pair_head,
        dropout=_DROPOUT,
        kept=_KEPT,
        refused=_REFUSED,
    )
    for model_class, pair_head in ((BertForMaskedLM, None), (BertForPreTraining, "cls.seq_relationship"))
)

ROBERTA = encoder(
    RobertaForMaskedLM,
    HeadNames("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias"),
    lm_head=("lm_head",),
    position_offset=_PADDING + 1,
    scratch={"pad_token_id": _PADDING},
    dropout=_DROPOUT,
    kept=_KEPT,
    refused=_REFUSED | {"pad_token_id": (_PADDING,)},
)

DISTILBERT = encoder(
    DistilBertForMaskedLM,
    HeadNames("vocab_transform", "vocab_layer_norm", "vocab_projector"),
    lm_head=("vocab_transform", "vocab_layer_norm", "vocab_projector"),
    layers="transformer.layer",
    names=_DISTILBERT_LAYER,
    # Its classifiers have a layer before the last.
    other_heads=TASK_HEADS + r"|^pre_classifier(?=\.)",
    dropout=("dropout", "attention_dropout"),
    kept=("activation",),
    # A table of sines is made and not learnt.
    refused={"sinusoidal_pos_embds": (False,)},
)
