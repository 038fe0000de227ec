"""The graph of Llama and of what follows it: pre-norm decoders, rotary positions, grouped queries."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from pipeline.families.base import TASK_HEADS, Family
from pipeline.families.graph import Attention, Branch, Embedding, Head, Layer, Model, Norm, Stack
from pipeline.families.layer_lists import layer_kind
from pipeline.families.nodes import attention_output, gated_mlp, port_sizes, query_key_value, rms_norm, rotary, score

BPE_OR_WORDS = ("sentencepiece_bpe", "byte_level_bpe", "wordpiece")
"""Beside Llama AutoTokenizer makes a BPE of every sentencepiece model."""

_WORDS, _OUTPUT = "model.embed_tokens.weight", "lm_head.weight"


def option(config: PretrainedConfig, key: str) -> bool:
    """Return a switch of the configuration's class; one that the class does not know has no effect."""
    return hasattr(type(config), key) and getattr(config, key)


def self_attention(prefix: str, config: PretrainedConfig, *, bias: bool | None = None, **others: Any) -> Attention:
    """Llama's attention; `bias` on query, key and value, by default that of the configuration's `attention_bias`."""
    std, biased = config.initializer_range, option(config, "attention_bias")
    given: dict[str, Any] = {"rotary": rotary(config), "score": score(config)}
    return Attention(
        query_key_value(prefix, init=std, bias=biased if bias is None else bias),
        attention_output(prefix + "o_proj", init=std, bias=biased),
        **given | others,
    )


def llama_layer(prefix: str, config: PretrainedConfig, *, scale: float = 1.0, **attention: Any) -> Layer:
    """A layer of Llama's, with options of its attention; `scale` multiplies what branches add."""
    body = self_attention(prefix + "self_attn.", config, **attention)
    mlp = gated_mlp(prefix + "mlp.", init=config.initializer_range, bias=option(config, "mlp_bias"))
    return Layer(
        (
            (Branch(body, pre=rms_norm(prefix + "input_layernorm"), scale=scale),),
            (Branch(mlp, pre=rms_norm(prefix + "post_attention_layernorm"), scale=scale),),
        )
    )


def head_norms_of(prefix: str, **options: Any) -> dict[str, Norm]:
    """RMSNorms over each head's queries and keys, `q_norm` and `k_norm`."""
    names = {"query_norm": "q_norm", "key_norm": "k_norm"}
    return {key: rms_norm(prefix + name, span="head", **options) for key, name in names.items()}


def decoder_graph(
    config: PretrainedConfig,
    layer: Callable[[str], Layer],
    final: Norm,
    *,
    embedding_scale: float = 1.0,
    logit_scale: float = 1.0,
    capped: bool = False,
    words: str = _WORDS,
    layers: str = "model.layers",
) -> Model:
    """Return a decoder of these layers, each made from the prefix of its tensors' names."""
    std, tied = config.initializer_range, config.tie_word_embeddings
    made = [layer(f"{layers}.{number}.") for number in range(config.num_hidden_layers)]
    return Model(
        port_sizes(config),
        Stack(
            (Embedding(words, "vocab", std, embedding_scale),),
            tuple(replace(each, kind=layer_kind(config, number)) for number, each in enumerate(made)),
            final=final,
        ),
        Head(words if tied else _OUTPUT, tied, scale=logit_scale, capped=capped, init=std),
    )


def decoder(
    name: str,
    model_class: type[PreTrainedModel],
    config_class: type[PretrainedConfig],
    graph: Callable[[PretrainedConfig], Model],
    *,
    refused: Mapping[str, tuple[Any, ...]] | None = None,
    partial_rotary: bool = False,
    **others: Any,
) -> Family:
    """Return a family whose modules are named as Llama's; `partial_rotary` where its class turns a part of a head."""
    whole = {} if partial_rotary else {"rope_parameters.partial_rotary_factor": (1.0, None)}
    given: Mapping[str, Any] = {
        "objective": "clm",
        "layers": "model.layers",
        "head_module": "model.norm",
        "words": _WORDS,
        "output": _OUTPUT,
        "lm_head": ("lm_head",),
        "head_alias": {_OUTPUT: _WORDS},
        # The classes for question answering call the model `transformer`.
        "published": ((re.compile(r"^(transformer\.)?(?=(embed_tokens|layers|norm|rotary_emb)\.)"), "model."),),
        # The rotary frequencies.
        "buffers": re.compile(r"\.rotary_emb\.inv_freq$"),
        "other_heads": re.compile(TASK_HEADS),
        "scratch": {},
        "dropout": ("attention_dropout",),
        "kept": ("hidden_act", "rms_norm_eps", "rope_parameters", "sliding_window", "use_sliding_window"),
        "own_head_dim": True,
    }
    return Family(
        name=name,
        model_class=model_class,
        config_class=config_class,
        graph=graph,
        refused=whole | dict(refused or {}),
        **given | others,
    )
