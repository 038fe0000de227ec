"""StarCoder2: LayerNorms, biases, grouped queries, an FFN without a gate."""

from typing import Any

from transformers import PretrainedConfig, Starcoder2ForCausalLM

from pipeline.families.decoder import decoder, pre_norm_layer
from pipeline.families.graph import Attention, Layer
from pipeline.families.nodes import attention_output, layer_norm, plain_mlp, query_key_value, rotary, score


def layer(prefix: str, config: PretrainedConfig) -> Layer:
    """All matrices have a bias, or none has."""
    options: dict[str, Any] = {"init": config.initializer_range, "bias": config.use_bias}
    attention = Attention(
        query_key_value(prefix + "self_attn.", **options),
        attention_output(prefix + "self_attn.o_proj", **options),
        rotary=rotary(config),
        score=score(config),
    )
    mlp = plain_mlp(prefix + "mlp.c_fc", prefix + "mlp.c_proj", **options)
    return pre_norm_layer(prefix, attention, mlp, layer_norm)


STARCODER2 = decoder(
    Starcoder2ForCausalLM,
    layer=layer,
    norm=layer_norm,
    dropout=("attention_dropout", "residual_dropout", "embedding_dropout"),
    kept=("hidden_act", "norm_epsilon", "rope_parameters", "sliding_window", "use_bias"),
)
