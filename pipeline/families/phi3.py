"""Phi-3 and Phi-4: Llama with fused query, key and value, and fused gate and unit."""

from transformers import Phi3ForCausalLM, PretrainedConfig

from pipeline.families.decoder import decoder, pre_norm_layer
from pipeline.families.graph import Attention, Layer, Mlp
from pipeline.families.nodes import GATE_AND_UP, attention_output, linear, rotary, score
from pipeline.families.tensors import KEY_PORTS, QUERY_PORTS, STREAM, UNITS, Axis, AxisPart

_QKV = Axis((AxisPart(QUERY_PORTS, "query"), AxisPart(KEY_PORTS, "key"), AxisPart(KEY_PORTS, "value")))


def layer(prefix: str, config: PretrainedConfig) -> Layer:
    """Llama's layer of fused matrices."""
    std = config.initializer_range
    attention = Attention(
        (linear(prefix + "self_attn.qkv_proj", _QKV, init=std),),
        attention_output(prefix + "self_attn.o_proj", init=std),
        rotary=rotary(config, joined=True),
        score=score(config),
    )
    mlp = Mlp(
        (linear(prefix + "mlp.gate_up_proj", GATE_AND_UP, init=std),), linear(prefix + "mlp.down_proj", STREAM, UNITS, init=std)
    )
    return pre_norm_layer(prefix, attention, mlp)


PHI3 = decoder(
    Phi3ForCausalLM,
    layer=layer,
    kept=("hidden_act", "rms_norm_eps", "rope_parameters", "sliding_window", "original_max_position_embeddings"),
    partial_rotary=True,
    dropout=("attention_dropout", "resid_pdrop", "embd_pdrop"),
)
