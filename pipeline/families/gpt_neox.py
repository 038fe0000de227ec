"""GPT-NeoX (Pythia): LayerNorms, branches side by side, query, key and value fused head by head."""

import re

from transformers import GPTNeoXForCausalLM, PretrainedConfig

from pipeline.families.decoder import decoder, pre_norm_layer
from pipeline.families.graph import Attention, Layer
from pipeline.families.nodes import attention_output, fused_heads, layer_norm, linear, plain_mlp, rotary, score


def layer(prefix: str, config: PretrainedConfig) -> Layer:
    """Branches side by side have norms of their own."""
    std, biased = config.initializer_range, config.attention_bias
    attention = Attention(
        (linear(prefix + "attention.query_key_value", fused_heads(outer=1), init=std, bias=biased),),
        attention_output(prefix + "attention.dense", init=std, bias=biased),
        rotary=rotary(config, joined=True),
        score=score(config),
    )
    mlp = plain_mlp(prefix + "mlp.dense_h_to_4h", prefix + "mlp.dense_4h_to_h", init=std, bias=True)
    return pre_norm_layer(prefix, attention, mlp, layer_norm, parallel=config.use_parallel_residual)


GPT_NEOX = decoder(
    GPTNeoXForCausalLM,
    layer=layer,
    norm=layer_norm,
    words="gpt_neox.embed_in.weight",
    layers="gpt_neox.layers",
    final="gpt_neox.final_layer_norm",
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
