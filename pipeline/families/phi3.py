"""Phi-3 and Phi-4: Llama with fused query, key and value, and fused gate and unit."""

from transformers import Phi3Config, Phi3ForCausalLM

from pipeline.families.decoder import decoder, decoder_graph
from pipeline.families.graph import Attention, Branch, Layer, Mlp, Model
from pipeline.families.nodes import attention_output, linear, rms_norm, rotary, score
from pipeline.families.tensors import KEY_PORTS, QUERY_PORTS, STREAM, UNITS, Axis, Part

_QKV = Axis((Part(QUERY_PORTS, "query"), Part(KEY_PORTS, "key"), Part(KEY_PORTS, "value")))
_GATE_UP = Axis((Part(("ffn",), "gate"), Part(("ffn",), "up")))


def graph(config: Phi3Config) -> Model:
    """transformers' Phi3ForCausalLM."""
    std = config.initializer_range

    def layer(prefix: str) -> Layer:
        attention = Attention(
            (linear(prefix + "self_attn.qkv_proj", _QKV, init=std),),
            attention_output(prefix + "self_attn.o_proj", init=std),
            rotary=rotary(config, joined=True),
            score=score(config),
        )
        mlp = Mlp(
            (linear(prefix + "mlp.gate_up_proj", _GATE_UP, init=std),),
            linear(prefix + "mlp.down_proj", STREAM, UNITS, init=std),
        )
        return Layer(
            (
                (Branch(attention, pre=rms_norm(prefix + "input_layernorm")),),
                (Branch(mlp, pre=rms_norm(prefix + "post_attention_layernorm")),),
            )
        )

    return decoder_graph(config, layer, rms_norm("model.norm"))


PHI3 = decoder(
    "phi3",
    Phi3ForCausalLM,
    Phi3Config,
    graph,
    kept=("hidden_act", "rms_norm_eps", "rope_parameters", "sliding_window", "original_max_position_embeddings"),
    partial_rotary=True,
    dropout=("attention_dropout", "resid_pdrop", "embd_pdrop"),
)
