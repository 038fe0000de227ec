"""GPT-NeoX (Pythia): LayerNorms, branches side by side, query, key and value fused head by head."""

import re

from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from pipeline.families.decoder import decoder, decoder_graph
from pipeline.families.graph import Attention, Branch, Layer, Model
from pipeline.families.nodes import attention_output, layer_norm, linear, plain_mlp, rotary, score
from pipeline.families.tensors import QUERY_PORTS, Axis, Part

_QKV = Axis(tuple(Part(QUERY_PORTS, part) for part in ("query", "key", "value")), outer=1)
_WORDS = "gpt_neox.embed_in.weight"


def graph(config: GPTNeoXConfig) -> Model:
    """transformers' GPTNeoXForCausalLM."""
    std, biased = config.initializer_range, config.attention_bias

    def layer(prefix: str) -> Layer:
        attention = Attention(
            (linear(prefix + "attention.query_key_value", _QKV, init=std, bias=biased),),
            attention_output(prefix + "attention.dense", init=std, bias=biased),
            rotary=rotary(config, joined=True),
            score=score(config),
        )
        mlp = plain_mlp(prefix + "mlp.dense_h_to_4h", prefix + "mlp.dense_4h_to_h", init=std, bias=True)
        first = Branch(attention, pre=layer_norm(prefix + "input_layernorm"))
        second = Branch(mlp, pre=layer_norm(prefix + "post_attention_layernorm"))
        return Layer(((first, second),) if config.use_parallel_residual else ((first,), (second,)))

    final = layer_norm("gpt_neox.final_layer_norm")
    return decoder_graph(config, layer, final, words=_WORDS, layers="gpt_neox.layers")


GPT_NEOX = decoder(
    "gpt_neox",
    GPTNeoXForCausalLM,
    GPTNeoXConfig,
    graph,
    layers="gpt_neox.layers",
    head_module="gpt_neox.final_layer_norm",
    words=_WORDS,
    head_alias={"lm_head.weight": _WORDS},
    published=(
        (re.compile(r"^(?=(embed_in|layers|final_layer_norm|rotary_emb)\.)"), "gpt_neox."),
        (re.compile(r"^embed_out\."), "lm_head."),
    ),
    # The causal mask, and the rotary frequencies.
    buffers=re.compile(r"\.attention\.(bias|masked_bias)$|\.rotary_emb\.inv_freq$"),
    partial_rotary=True,
    dropout=("attention_dropout", "hidden_dropout"),
    kept=("hidden_act", "layer_norm_eps", "rope_parameters", "use_parallel_residual", "attention_bias"),
    own_head_dim=False,
)
