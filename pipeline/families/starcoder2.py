"""StarCoder2: LayerNorms, biases, grouped queries, an FFN without a gate."""

from transformers import Starcoder2Config, Starcoder2ForCausalLM

from pipeline.families.decoder import decoder, decoder_graph
from pipeline.families.graph import Attention, Branch, Layer, Model
from pipeline.families.nodes import attention_output, layer_norm, plain_mlp, query_key_value, rotary, score


def graph(config: Starcoder2Config) -> Model:
    """transformers' Starcoder2ForCausalLM."""
    options = {"init": config.initializer_range, "bias": config.use_bias}

    def layer(prefix: str) -> Layer:
        attention = Attention(
            query_key_value(prefix + "self_attn.", **options),
            attention_output(prefix + "self_attn.o_proj", **options),
            rotary=rotary(config),
            score=score(config),
        )
        mlp = plain_mlp(prefix + "mlp.c_fc", prefix + "mlp.c_proj", **options)
        return Layer(
            (
                (Branch(attention, pre=layer_norm(prefix + "input_layernorm")),),
                (Branch(mlp, pre=layer_norm(prefix + "post_attention_layernorm")),),
            )
        )

    return decoder_graph(config, layer, layer_norm("model.norm"))


STARCODER2 = decoder(
    "starcoder2",
    Starcoder2ForCausalLM,
    Starcoder2Config,
    graph,
    dropout=("attention_dropout", "residual_dropout", "embedding_dropout"),
    kept=("hidden_act", "norm_epsilon", "rope_parameters", "sliding_window", "use_bias"),
)
