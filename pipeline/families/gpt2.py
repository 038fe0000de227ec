"""GPT-2: pre-LN, learned positions, fused c_attn, Conv1D matrices stored [in, out]."""

import math
import re

from transformers import GPT2LMHeadModel, PretrainedConfig

from pipeline.families.base import Family
from pipeline.families.graph import Attention, Branch, Head, Layer, Model, Stack
from pipeline.families.nodes import fused_heads, layer_norm, linear, plain_mlp, port_sizes, score
from pipeline.families.primitives import Embedding
from pipeline.families.tensors import MIXED, STREAM

_WORDS, _OUTPUT = "transformer.wte.weight", "lm_head.weight"


def graph(config: PretrainedConfig) -> Model:
    """transformers' GPT2LMHeadModel."""
    std, tied = config.initializer_range, config.tie_word_embeddings
    # GPT-2's own initialization makes what writes the stream smaller by sqrt(2 L).
    written = std / math.sqrt(2 * config.num_hidden_layers)

    def layer(prefix: str) -> Layer:
        attention = Attention(
            (linear(prefix + "attn.c_attn", fused_heads(), init=std, bias=True, transposed=True),),
            linear(prefix + "attn.c_proj", STREAM, MIXED, init=written, bias=True, transposed=True),
            score=score(config),
        )
        mlp = plain_mlp(prefix + "mlp.c_fc", prefix + "mlp.c_proj", init=std, down_init=written, bias=True, transposed=True)
        return Layer.sequential(
            Branch(attention, pre=layer_norm(prefix + "ln_1")), Branch(mlp, pre=layer_norm(prefix + "ln_2"))
        )

    return Model(
        port_sizes(config) | {"positions": config.n_positions},
        Stack(
            (Embedding(_WORDS, "vocab", std), Embedding("transformer.wpe.weight", "positions", std)),
            tuple(layer(f"transformer.h.{number}.") for number in range(config.num_hidden_layers)),
            final=layer_norm("transformer.ln_f"),
        ),
        Head(_WORDS if tied else _OUTPUT, tied, init=std),
    )


GPT2 = Family(
    model_class=GPT2LMHeadModel,
    objective="clm",
    graph=graph,
    layers="transformer.h",
    head_module="transformer.ln_f",
    words=_WORDS,
    output=_OUTPUT,
    published=((re.compile(r"^(?=(h\.|wte\.|wpe\.|ln_f\.))"), "transformer."),),
    # The causal mask.
    buffers=re.compile(r"\.attn\.(bias|masked_bias)$"),
    # The same function as the default gelu_new, in one kernel.
    scratch={"activation_function": "gelu_pytorch_tanh"},
    dropout=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    kept=("activation_function", "layer_norm_epsilon"),
    refused={
        "scale_attn_weights": (True,),
        "reorder_and_upcast_attn": (False,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
)
