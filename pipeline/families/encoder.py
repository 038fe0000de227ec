"""The graph of BERT and of what follows it: post-LN encoders with learned positions and a masked-language-model head."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from pipeline.families.base import TASK_HEADS, Family
from pipeline.families.graph import Attention, Branch, Head, Layer, Model, Pooler, Stack
from pipeline.families.nodes import attention_output, layer_norm, linear, plain_mlp, port_sizes, query_key_value, score
from pipeline.families.primitives import Embedding, Linear
from pipeline.families.tensors import RESIDUAL, STREAM, Axis

_POOLED = Axis.of("pooled")


def encoder(
    model_class: type[PreTrainedModel],
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
    """Return the family of a class, whose head's tensors have the names given.

    `pair_head` judges pairs of sentences by the pooled first token; without one, published poolers are no part of the model.
    """
    name = model_class.base_model_prefix
    return Family(
        model_class=model_class,
        objective="mlm",
        graph=partial(_graph, name=name, head=head, transform=transform, transform_norm=transform_norm, pair_head=pair_head),
        layers=f"{name}.encoder.layer",
        head_module=head.removesuffix("."),
        words=f"{name}.embeddings.word_embeddings.weight",
        output=f"{head}decoder.weight",
        output_bias=f"{head}decoder.bias",
        lm_head=(head.removesuffix("."),),
        tied_output_bias=head + "bias",
        position_offset=position_offset,
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


def _graph(
    config: PretrainedConfig, *, name: str, head: str, transform: str, transform_norm: str, pair_head: str | None
) -> Model:
    std, tied = config.initializer_range, config.tie_word_embeddings
    embeddings = f"{name}.embeddings."
    tables = {"word_embeddings": "vocab", "position_embeddings": "positions", "token_type_embeddings": "segments"}
    sizes = port_sizes(config) | {"positions": config.max_position_embeddings, "segments": config.type_vocab_size}
    return Model(
        sizes | ({"pooled": sizes[RESIDUAL], "pair_classes": 2} if pair_head else {}),
        Stack(
            tuple(Embedding(f"{embeddings}{table}.weight", port, std) for table, port in tables.items()),
            tuple(_layer(f"{name}.encoder.layer.{number}.", config) for number in range(config.num_hidden_layers)),
            embedding_norm=layer_norm(embeddings + "LayerNorm"),
        ),
        Head(
            f"{embeddings}word_embeddings.weight" if tied else f"{head}decoder.weight",
            tied,
            # transformers unties the output bias with the matrix, and then leaves the head's own bias unused.
            biases=(f"{head}bias",) if tied else (f"{head}bias", f"{head}decoder.bias"),
            transform=linear(head + transform, STREAM, init=std, bias=True),
            norm=layer_norm(head + transform_norm),
            init=std,
        ),
        _pooler(name, pair_head, std) if pair_head else None,
    )


def _layer(prefix: str, config: PretrainedConfig) -> Layer:
    options: dict[str, Any] = {"init": config.initializer_range, "bias": True}
    attention = Attention(
        query_key_value(prefix + "attention.self.", ("query", "key", "value"), **options),
        attention_output(prefix + "attention.output.dense", **options),
        score=score(config),
    )
    mlp = plain_mlp(prefix + "intermediate.dense", prefix + "output.dense", **options)
    return Layer.sequential(
        Branch(attention, ends=layer_norm(prefix + "attention.output.LayerNorm")),
        Branch(mlp, ends=layer_norm(prefix + "output.LayerNorm")),
    )


def _pooler(name: str, pair_head: str, std: float) -> Pooler:
    # Its channels are copied as the stream's are, and no norm reads them.
    return Pooler(
        linear(f"{name}.pooler.dense", _POOLED, init=std, bias=True),
        Linear(f"{pair_head}.weight", Axis.of("pair_classes"), _POOLED, f"{pair_head}.bias", init=std),
    )
