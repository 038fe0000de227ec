"""ModernBERT with its masked-language-model head: pre-norm layers, of which the first has no norm before attention."""

import math
import re
from dataclasses import replace

from transformers import ModernBertForMaskedLM, PretrainedConfig

from pipeline.families.base import Family
from pipeline.families.graph import Attention, Branch, Head, Layer, Mlp, Model, Stack
from pipeline.families.layer_lists import layer_kind
from pipeline.families.nodes import GATE_AND_UP, attention_output, fused_heads, layer_norm, linear, port_sizes, rotary, score
from pipeline.families.primitives import Embedding, Norm
from pipeline.families.tensors import STREAM, UNITS

_WORDS, _OUTPUT = "model.embeddings.tok_embeddings.weight", "decoder.weight"


def graph(config: PretrainedConfig) -> Model:
    """transformers' ModernBertForMaskedLM."""
    tied = config.tie_word_embeddings
    std = config.initializer_range * _truncated(config.initializer_cutoff_factor)
    written = std / math.sqrt(2.0 * config.num_hidden_layers)

    def norm(name: str) -> Norm:
        return layer_norm(name, bias=config.norm_bias)

    def layer(number: int) -> Layer:
        prefix, biased = f"model.layers.{number}.", config.attention_bias
        attention = Attention(
            (linear(prefix + "attn.Wqkv", fused_heads(), init=std, bias=biased),),
            attention_output(prefix + "attn.Wo", init=written, bias=biased),
            rotary=rotary(config),
            score=score(config),
        )
        mlp = Mlp(
            (linear(prefix + "mlp.Wi", GATE_AND_UP, init=std, bias=config.mlp_bias),),
            linear(prefix + "mlp.Wo", STREAM, UNITS, init=written, bias=config.mlp_bias),
        )
        before = norm(prefix + "attn_norm") if number else None
        return Layer.sequential(Branch(attention, pre=before), Branch(mlp, pre=norm(prefix + "mlp_norm")))

    return Model(
        port_sizes(config),
        Stack(
            (Embedding(_WORDS, "vocab", std),),
            tuple(replace(layer(number), kind=layer_kind(config, number)) for number in range(config.num_hidden_layers)),
            embedding_norm=norm("model.embeddings.norm"),
            final=norm("model.final_norm"),
        ),
        Head(
            _WORDS if tied else _OUTPUT,
            tied,
            biases=("decoder.bias",) if config.decoder_bias else (),
            transform=linear("head.dense", STREAM, init=written, bias=config.classifier_bias),
            norm=norm("head.norm"),
            init=written,
        ),
    )


def _truncated(cutoff: float) -> float:
    """The deviation of a normal distribution of deviation 1 that is cut off at `cutoff` on both sides."""
    density = math.exp(-(cutoff**2) / 2) / math.sqrt(2 * math.pi)
    return math.sqrt(max(0.0, 1 - 2 * cutoff * density / math.erf(cutoff / math.sqrt(2))))


MODERNBERT = Family(
    model_class=ModernBertForMaskedLM,
    objective="mlm",
    graph=graph,
    layers="model.layers",
    head_module="model.final_norm",
    words=_WORDS,
    output=_OUTPUT,
    lm_head=("head", "decoder"),
    published=((re.compile(r"^(?=(embeddings|layers|final_norm)\.)"), "model."),),
    # The rotary frequencies.
    buffers=re.compile(r"\.rotary_emb\.(\w+_)?inv_freq$"),
    scratch={"cls_token_id": None, "sep_token_id": None},
    dropout=("attention_dropout", "embedding_dropout", "mlp_dropout"),
    kept=("hidden_activation", "classifier_activation", "norm_eps", "rope_parameters", "local_attention", "decoder_bias"),
    factors=("initializer_cutoff_factor",),
    # The class reads a head's dimension for its frequencies alone.
    refused={"rope_parameters.partial_rotary_factor": (1.0, None), "head_dim": (None,)},
    variants=({"attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True},),
)
