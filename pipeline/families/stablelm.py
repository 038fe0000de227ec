"""StableLM: Llama under LayerNorms."""

from transformers import PretrainedConfig, StableLmForCausalLM

from pipeline.families.decoder import decoder, pre_norm_layer, self_attention
from pipeline.families.graph import Branch, Layer
from pipeline.families.nodes import gated_mlp, layer_norm, rotary


def layer(prefix: str, config: PretrainedConfig) -> Layer:
    """Branches side by side read one norm."""
    turned = rotary(config, joined=True)
    attention = self_attention(prefix + "self_attn.", config, bias=config.use_qkv_bias, rotary=turned)
    mlp = gated_mlp(prefix + "mlp.", init=config.initializer_range)
    if config.use_parallel_residual:
        norm = layer_norm(prefix + "input_layernorm")
        return Layer.parallel(Branch(attention, pre=norm), Branch(mlp, pre=norm))
    return pre_norm_layer(prefix, attention, mlp, layer_norm)


STABLELM = decoder(
    StableLmForCausalLM,
    layer=layer,
    norm=layer_norm,
    kept=("hidden_act", "layer_norm_eps", "rope_parameters", "use_parallel_residual", "use_qkv_bias"),
    # Its norms over queries and keys are a module a head.
    refused={"qk_layernorm": (False,)},
    partial_rotary=True,
    dropout=("attention_dropout", "hidden_dropout"),
    variants=({"use_qkv_bias": True},),
    own_head_dim=False,
)
