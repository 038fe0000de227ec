"""Cohere and Cohere2: one LayerNorm without a bias for both branches, rotary pairs side by side, a scale on logits."""

from functools import partial
from typing import Any

from transformers import Cohere2ForCausalLM, CohereForCausalLM, PretrainedConfig

from pipeline.families.decoder import decoder, decoder_graph, self_attention
from pipeline.families.graph import Branch, Layer, Model
from pipeline.families.nodes import gated_mlp, layer_norm, rotary

_norm = partial(layer_norm, bias=False, gain_in_float32=True)


def layer(prefix: str, config: PretrainedConfig) -> Layer:
    """Both branches read one norm."""
    attention = self_attention(prefix + "self_attn.", config, rotary=rotary(config, interleaved=True))
    norm, mlp = _norm(prefix + "input_layernorm"), gated_mlp(prefix + "mlp.", init=config.initializer_range)
    return Layer.parallel(Branch(attention, pre=norm), Branch(mlp, pre=norm))


def graph(config: PretrainedConfig) -> Model:
    """transformers' CohereForCausalLM and Cohere2ForCausalLM, some of whose layers know no positions."""
    return decoder_graph(config, layer, _norm, logit_scale=config.logit_scale)


_OPTIONS: dict[str, Any] = {
    "kept": ("hidden_act", "layer_norm_eps", "rope_parameters", "sliding_window", "logit_scale"),
    "factors": ("logit_scale",),
    "variants": ({"attention_bias": True},),
}

COHERE = decoder(CohereForCausalLM, graph, refused={"use_qk_norm": (False,)}, **_OPTIONS)

COHERE2 = decoder(Cohere2ForCausalLM, graph, **_OPTIONS)
