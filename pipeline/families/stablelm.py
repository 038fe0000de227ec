"""StableLM: Llama under LayerNorms."""

from transformers import StableLmConfig, StableLmForCausalLM

from pipeline.families.decoder import decoder, decoder_graph, self_attention
from pipeline.families.graph import Branch, Layer, Model
from pipeline.families.nodes import gated_mlp, layer_norm, rotary


def graph(config: StableLmConfig) -> Model:
    """transformers' StableLmForCausalLM."""

    def layer(prefix: str) -> Layer:
        turned = rotary(config, joined=True)
        attention = self_attention(prefix + "self_attn.", config, bias=config.use_qkv_bias, rotary=turned)
        mlp, norm = gated_mlp(prefix + "mlp.", init=config.initializer_range), layer_norm(prefix + "input_layernorm")
        if config.use_parallel_residual:
            return Layer(((Branch(attention, pre=norm), Branch(mlp, pre=norm)),))
        return Layer(
            ((Branch(attention, pre=norm),), (Branch(mlp, pre=layer_norm(prefix + "post_attention_layernorm")),)),
        )

    return decoder_graph(config, layer, layer_norm("model.norm"))


STABLELM = decoder(
    "stablelm",
    StableLmForCausalLM,
    StableLmConfig,
    graph,
    kept=("hidden_act", "layer_norm_eps", "rope_parameters", "use_parallel_residual", "use_qkv_bias"),
    # Its norms over queries and keys are a module a head.
    refused={"qk_layernorm": (False,)},
    partial_rotary=True,
    dropout=("attention_dropout", "hidden_dropout"),
    variants=({"use_qkv_bias": True},),
    own_head_dim=False,
)
