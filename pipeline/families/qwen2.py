"""Qwen2: Llama with biases on query, key and value."""

from functools import partial

from transformers import Qwen2ForCausalLM

from pipeline.families.decoder import decoder, decoder_graph, llama_layer

QWEN2 = decoder(
    Qwen2ForCausalLM,
    partial(decoder_graph, layer=partial(llama_layer, bias=True)),
    tokenizers=("sentencepiece_unigram", "byte_level_bpe"),
    special_tokens_of=("qwen2", "qwen3"),
)
