"""T5 and T5 v1.1: an encoder and a decoder that reads it, RMSNorms before branches, one table of relative positions a stack."""

import re
from dataclasses import replace

from transformers import PretrainedConfig, T5ForConditionalGeneration

from pipeline.families.base import TASK_HEADS, Family, sizes_of
from pipeline.families.graph import Attention, Branch, Head, Layer, Mlp, Model, Stack
from pipeline.families.nodes import attention_output, gated_mlp, plain_mlp, port_sizes, query_key_value, rms_norm
from pipeline.families.primitives import Embedding

_WORDS, _OUTPUT = "shared.weight", "lm_head.weight"


def graph(config: PretrainedConfig) -> Model:
    """transformers' T5ForConditionalGeneration."""
    sizes, tied, std = port_sizes(config), config.tie_word_embeddings, config.initializer_factor
    shrunk = sizes["residual"] ** -0.5
    # The standard deviation of a matrix that reads the stream.
    reading = std * shrunk

    def attention(prefix: str, *, cross: bool = False) -> Attention:
        """Scores are not divided by sqrt(d_kv), of which the initial queries make up."""
        query, key, value = query_key_value(prefix, ("q", "k", "v"), init=reading)
        query = replace(query, init=reading * sizes["head_dim"] ** -0.5)
        output = attention_output(prefix + "o", init=std * (sizes["heads"] * sizes["head_dim"]) ** -0.5)
        return Attention((query, key, value), output, cross=cross)

    def mlp(prefix: str) -> Mlp:
        if config.is_gated_act:
            made = gated_mlp(prefix, ("wi_0", "wi_1", "wo"), init=reading)
        else:
            made = plain_mlp(prefix + "wi", prefix + "wo", init=reading)
        return replace(made, last=replace(made.last, init=std * sizes["ffn"] ** -0.5))

    def layer(prefix: str, *, reads_encoder: bool) -> Layer:
        bodies: list[Attention | Mlp] = [attention(prefix + "0.SelfAttention.")]
        if reads_encoder:
            bodies.append(attention(prefix + "1.EncDecAttention.", cross=True))
        bodies.append(mlp(f"{prefix}{len(bodies)}.DenseReluDense."))
        return Layer.sequential(*(Branch(body, pre=rms_norm(f"{prefix}{i}.layer_norm")) for i, body in enumerate(bodies)))

    def stack(name: str, depth: int, *, reads_encoder: bool) -> Stack:
        # Stored with the first layer's attention, and added in all layers.
        table = f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        return Stack(
            (Embedding(_WORDS, "vocab", std),),
            tuple(layer(f"{name}.block.{number}.layer.", reads_encoder=reads_encoder) for number in range(depth)),
            final=rms_norm(f"{name}.final_layer_norm"),
            relative_positions=Embedding(table, "buckets", reading),
        )

    encoder, decoder = sizes_of(config).depths
    return Model(
        sizes | {"buckets": config.relative_attention_num_buckets},
        stack("decoder", decoder, reads_encoder=True),
        # The first T5 divides what it makes logits of by sqrt(D).
        Head(_WORDS if tied else _OUTPUT, tied, scale=shrunk if config.scale_decoder_outputs else 1.0, init=std),
        encoder=stack("encoder", encoder, reads_encoder=False),
    )


T5 = Family(
    model_class=T5ForConditionalGeneration,
    objective="span_corruption",
    graph=graph,
    layers="decoder.block",
    head_module="decoder.final_layer_norm",
    words=_WORDS,
    output=_OUTPUT,
    shared={"encoder.embed_tokens.weight": _WORDS, "decoder.embed_tokens.weight": _WORDS},
    # Hugging Face's classifiers call the model `transformer`.
    published=((re.compile(r"^transformer\.(?=(shared|encoder|decoder)\.)"), ""),),
    # A table that earlier versions had for cross-attention, and never read.
    buffers=re.compile(r"^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$"),
    other_heads=re.compile(TASK_HEADS + r"|^classification_head(?=\.)"),
    dropout=("dropout_rate",),
    kept=(
        "feed_forward_proj",
        "dense_act_fn",
        "is_gated_act",
        "layer_norm_epsilon",
        "relative_attention_num_buckets",
        "relative_attention_max_distance",
        "scale_decoder_outputs",
    ),
    factors=("initializer_factor",),
    refused={"is_encoder_decoder": (True,), "is_decoder": (False,)},
    variants=({"feed_forward_proj": "gated-gelu"},),
    own_head_dim=True,
)
