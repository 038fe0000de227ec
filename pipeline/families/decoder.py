"""The graph of Llama and of what follows it: pre-norm decoders, rotary positions, grouped queries."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from pipeline.families.base import Family
from pipeline.families.graph import Attention, Branch, Experts, Head, Joined, Layer, Mlp, Model, Stack
from pipeline.families.layer_lists import layer_kind
from pipeline.families.nodes import attention_output, gated_mlp, port_sizes, query_key_value, rms_norm, rotary, score
from pipeline.families.primitives import Embedding, Norm
from pipeline.families.tensors import RESIDUAL

HEAD_NORM = partial(rms_norm, span="head")
"""An RMSNorm over each head's queries, or keys."""

_WORDS, _OUTPUT, _LAYERS, _FINAL = "model.embed_tokens.weight", "lm_head.weight", "model.layers", "model.norm"


def option(config: PretrainedConfig, key: str) -> bool:
    """Return a switch of the configuration's class; one that the class does not know has no effect."""
    return hasattr(type(config), key) and getattr(config, key)


def self_attention(
    prefix: str,
    config: PretrainedConfig,
    *,
    bias: bool | None = None,
    norms: Callable[[str], Norm] | None = None,
    **others: Any,
) -> Attention:
    """Llama's attention; `bias` on query, key and value, by default that of the configuration's `attention_bias`.

    `norms` makes the norms over queries and keys of their names, where there are any.
    """
    std, biased = config.initializer_range, option(config, "attention_bias")
    given: dict[str, Any] = {"rotary": rotary(config), "score": score(config)}
    if norms is not None:
        given |= {"query_norm": norms(prefix + "q_norm"), "key_norm": norms(prefix + "k_norm")}
    return Attention(
        query_key_value(prefix, init=std, bias=biased if bias is None else bias),
        attention_output(prefix + "o_proj", init=std, bias=biased),
        **given | others,
    )


def pre_norm_layer(
    prefix: str,
    attention: Attention,
    mlp: Mlp | Experts,
    norm: Callable[[str], Norm] = rms_norm,
    *,
    scale: float = 1.0,
    parallel: bool = False,
) -> Layer:
    """Llama's layer of these two, one after the other or `parallel`; `scale` multiplies what branches add."""
    first = Branch(attention, pre=norm(prefix + "input_layernorm"), scale=scale)
    second = Branch(mlp, pre=norm(prefix + "post_attention_layernorm"), scale=scale)
    return Layer.parallel(first, second) if parallel else Layer.sequential(first, second)


def llama_layer(prefix: str, config: PretrainedConfig, *, scale: float = 1.0, **attention: Any) -> Layer:
    """A layer of Llama's, with options of its attention; `scale` multiplies what branches add."""
    mlp = gated_mlp(prefix + "mlp.", init=config.initializer_range, bias=option(config, "mlp_bias"))
    return pre_norm_layer(prefix, self_attention(prefix + "self_attn.", config, **attention), mlp, scale=scale)


def decoder_graph(
    config: PretrainedConfig,
    layer: Callable[[str, PretrainedConfig], Layer] = llama_layer,
    norm: Callable[[str], Norm] = rms_norm,
    *,
    embedding_scale: float = 1.0,
    logit_scale: float = 1.0,
    capped: bool = False,
    words: str = _WORDS,
    layers: str = _LAYERS,
    final: str = _FINAL,
) -> Model:
    """Return a decoder of these layers, each made from the prefix of its tensors' names, and of a norm behind them."""
    std, tied = config.initializer_range, config.tie_word_embeddings
    model = Model(
        port_sizes(config),
        Stack(
            (Embedding(words, "vocab", std, embedding_scale),),
            tuple(
                replace(layer(f"{layers}.{number}.", config), kind=layer_kind(config, number))
                for number in range(config.num_hidden_layers)
            ),
            final=norm(final),
        ),
        Head(words if tied else _OUTPUT, tied, scale=logit_scale, capped=capped, init=std),
    )
    return replace(model, joined=tuple(_joined(model)))


def _joined(model: Model) -> Iterator[Joined]:
    """Yield what classes with experts join: [experts, gate and unit, stream], [experts, stream, unit]."""
    for number, body in model.experts:
        inside, count = f"model.layers.{number}.mlp.", len(body.each)
        units, channels = body.each[0].last.into.size(model.sizes), model.sizes[RESIDUAL]
        read = tuple(each.weight for network in body.each for each in network.inputs)
        yield Joined(inside + "experts.gate_up_proj", read, (count, 2 * units, channels))
        written = tuple(network.last.weight for network in body.each)
        yield Joined(inside + "experts.down_proj", written, (count, channels, units))
        if body.router.weight != inside + "gate.weight":
            yield Joined(inside + "gate.weight", (body.router.weight,), (count, channels))


def decoder(
    model_class: type[PreTrainedModel],
    graph: Callable[[PretrainedConfig], Model] | None = None,
    *,
    layer: Callable[[str, PretrainedConfig], Layer] = llama_layer,
    norm: Callable[[str], Norm] = rms_norm,
    words: str = _WORDS,
    layers: str = _LAYERS,
    final: str = _FINAL,
    refused: Mapping[str, tuple[Any, ...]] | None = None,
    partial_rotary: bool = False,
    **others: Any,
) -> Family:
    """Return a family whose modules are named as Llama's; `partial_rotary` where its class turns a part of a head.

    Without a `graph` it is that of a decoder of these layers and of such a norm behind them.
    """
    made = partial(decoder_graph, layer=layer, norm=norm, words=words, layers=layers, final=final)
    whole: dict[str, tuple[Any, ...]] = {} if partial_rotary else {"rope_parameters.partial_rotary_factor": (1.0, None)}
    given: dict[str, Any] = {
        "objective": "clm",
        "output": _OUTPUT,
        # The classes for question answering call the model `transformer`.
        "published": ((re.compile(r"^(transformer\.)?(?=(embed_tokens|layers|norm|rotary_emb)\.)"), "model."),),
        # The rotary frequencies.
        "buffers": re.compile(r"\.rotary_emb\.inv_freq$"),
        "dropout": ("attention_dropout",),
        "kept": ("hidden_act", "rms_norm_eps", "rope_parameters", "sliding_window", "use_sliding_window"),
        "own_head_dim": True,
    }
    given |= {"words": words, "layers": layers, "head_module": final, "refused": whole | dict(refused or {})}
    return Family(model_class=model_class, graph=graph or made, **given | others)
