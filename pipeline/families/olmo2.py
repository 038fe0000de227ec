"""OLMo-2 and OLMo-3: norms on what branches give, and one norm over all heads' queries, and one over all keys."""

from functools import partial

from transformers import Olmo2ForCausalLM, Olmo3ForCausalLM, PretrainedConfig

from pipeline.families.decoder import decoder, self_attention
from pipeline.families.graph import Branch, Layer
from pipeline.families.nodes import gated_mlp, rms_norm

_norm = partial(rms_norm, gain_in_float32=True)


def layer(prefix: str, config: PretrainedConfig) -> Layer:
    """Of both classes, which differ in how layers attend."""
    attention = self_attention(prefix + "self_attn.", config, norms=_norm)
    mlp = gated_mlp(prefix + "mlp.", init=config.initializer_range)
    return Layer.sequential(
        Branch(attention, post=_norm(prefix + "post_attention_layernorm")),
        Branch(mlp, post=_norm(prefix + "post_feedforward_layernorm")),
    )


OLMO2, OLMO3 = (
    decoder(model_class, layer=layer, norm=_norm, variants=({"attention_bias": True},))
    for model_class in (Olmo2ForCausalLM, Olmo3ForCausalLM)
)
