"""Qwen2: Llama with biases on query, key and value."""

from transformers import Qwen2Config, Qwen2ForCausalLM

from pipeline.families.decoder import decoder, decoder_graph, llama_layer
from pipeline.families.graph import Model
from pipeline.families.nodes import rms_norm


def graph(config: Qwen2Config) -> Model:
    """transformers' Qwen2ForCausalLM."""
    return decoder_graph(config, lambda prefix: llama_layer(prefix, config, bias=True), rms_norm("model.norm"))


QWEN2 = decoder(
    "qwen2",
    Qwen2ForCausalLM,
    Qwen2Config,
    graph,
    tokenizers=("sentencepiece_unigram", "byte_level_bpe"),
    special_tokens_of=("qwen2", "qwen3"),
)
