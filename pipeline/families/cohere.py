"""Cohere and Cohere2: one LayerNorm without a bias for both branches, rotary pairs side by side, a scale on logits."""

from transformers import Cohere2Config, Cohere2ForCausalLM, CohereConfig, CohereForCausalLM

from pipeline.families.decoder import decoder, decoder_graph, self_attention
from pipeline.families.graph import Branch, Layer, Model
from pipeline.families.nodes import gated_mlp, layer_norm, rotary

_NORM = {"bias": False, "gain_in_float32": True}


def graph(config: CohereConfig | Cohere2Config) -> Model:
    """transformers' CohereForCausalLM and Cohere2ForCausalLM, some of whose layers know no positions."""

    def layer(prefix: str) -> Layer:
        attention = self_attention(prefix + "self_attn.", config, rotary=rotary(config, interleaved=True))
        norm = layer_norm(prefix + "input_layernorm", **_NORM)
        mlp = gated_mlp(prefix + "mlp.", init=config.initializer_range)
        return Layer(((Branch(attention, pre=norm), Branch(mlp, pre=norm)),))

    return decoder_graph(config, layer, layer_norm("model.norm", **_NORM), logit_scale=config.logit_scale)


_OPTIONS = {
    "kept": ("hidden_act", "layer_norm_eps", "rope_parameters", "sliding_window", "logit_scale"),
    "factors": ("logit_scale",),
    "variants": ({"attention_bias": True},),
}

COHERE = decoder("cohere", CohereForCausalLM, CohereConfig, graph, refused={"use_qk_norm": (False,)}, **_OPTIONS)

COHERE2 = decoder("cohere2", Cohere2ForCausalLM, Cohere2Config, graph, **_OPTIONS)
