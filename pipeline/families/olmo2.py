"""OLMo-2 and OLMo-3: norms on what branches give, and one norm over all heads' queries, and one over all keys."""

from functools import partial

from transformers import Olmo2Config, Olmo2ForCausalLM, Olmo3Config, Olmo3ForCausalLM

from pipeline.families.decoder import decoder, decoder_graph, self_attention
from pipeline.families.graph import Branch, Layer, Model
from pipeline.families.nodes import gated_mlp, rms_norm

_norm = partial(rms_norm, gain_in_float32=True)


def graph(config: Olmo2Config | Olmo3Config) -> Model:
    """transformers' Olmo2ForCausalLM and Olmo3ForCausalLM, which differ in how layers attend."""

    def layer(prefix: str) -> Layer:
        inside = prefix + "self_attn."
        norms = {"query_norm": _norm(inside + "q_norm"), "key_norm": _norm(inside + "k_norm")}
        attention, mlp = self_attention(inside, config, **norms), gated_mlp(prefix + "mlp.", init=config.initializer_range)
        return Layer(
            (
                (Branch(attention, post=_norm(prefix + "post_attention_layernorm")),),
                (Branch(mlp, post=_norm(prefix + "post_feedforward_layernorm")),),
            )
        )

    return decoder_graph(config, layer, _norm("model.norm"))


_OPTIONS = {"variants": ({"attention_bias": True},)}

OLMO2 = decoder("olmo2", Olmo2ForCausalLM, Olmo2Config, graph, **_OPTIONS)

OLMO3 = decoder("olmo3", Olmo3ForCausalLM, Olmo3Config, graph, **_OPTIONS)
