"""DistilBERT: BERT's layers under names of their own, without segments, and a head of three modules."""

import re
from typing import Any

from transformers import DistilBertForMaskedLM, PretrainedConfig

from pipeline.families.base import TASK_HEADS, Family
from pipeline.families.graph import Attention, Branch, Head, Layer, Model, Stack
from pipeline.families.nodes import attention_output, layer_norm, linear, plain_mlp, port_sizes, query_key_value, score
from pipeline.families.primitives import Embedding
from pipeline.families.tensors import STREAM

_EMBEDDINGS = "distilbert.embeddings."
_WORDS, _OUTPUT = f"{_EMBEDDINGS}word_embeddings.weight", "vocab_projector.weight"


def graph(config: PretrainedConfig) -> Model:
    """transformers' DistilBertForMaskedLM."""
    std, tied = config.initializer_range, config.tie_word_embeddings

    def layer(prefix: str) -> Layer:
        options: dict[str, Any] = {"init": std, "bias": True}
        attention = Attention(
            query_key_value(prefix + "attention.", ("q_lin", "k_lin", "v_lin"), **options),
            attention_output(prefix + "attention.out_lin", **options),
            score=score(config),
        )
        mlp = plain_mlp(prefix + "ffn.lin1", prefix + "ffn.lin2", **options)
        return Layer.sequential(
            Branch(attention, ends=layer_norm(prefix + "sa_layer_norm")),
            Branch(mlp, ends=layer_norm(prefix + "output_layer_norm")),
        )

    return Model(
        port_sizes(config) | {"positions": config.max_position_embeddings},
        Stack(
            (Embedding(_WORDS, "vocab", std), Embedding(f"{_EMBEDDINGS}position_embeddings.weight", "positions", std)),
            tuple(layer(f"distilbert.transformer.layer.{number}.") for number in range(config.num_hidden_layers)),
            embedding_norm=layer_norm(f"{_EMBEDDINGS}LayerNorm"),
        ),
        Head(
            _WORDS if tied else _OUTPUT,
            tied,
            biases=("vocab_projector.bias",),
            transform=linear("vocab_transform", STREAM, init=std, bias=True),
            norm=layer_norm("vocab_layer_norm"),
            init=std,
        ),
    )


DISTILBERT = Family(
    model_class=DistilBertForMaskedLM,
    objective="mlm",
    graph=graph,
    layers="distilbert.transformer.layer",
    head_module="vocab_transform",
    words=_WORDS,
    output=_OUTPUT,
    lm_head=("vocab_transform", "vocab_layer_norm", "vocab_projector"),
    published=((re.compile(r"^(?=(embeddings|transformer)\.)"), "distilbert."),),
    # A range.
    buffers=re.compile(r"\.position_ids$"),
    # Its classifiers have a layer before the last.
    other_heads=re.compile(TASK_HEADS + r"|^pre_classifier(?=\.)"),
    dropout=("dropout", "attention_dropout"),
    kept=("activation",),
    # A table of sines is made and not learnt.
    refused={"sinusoidal_pos_embds": (False,)},
)
