"""Qwen2: Llama with biases on query, key and value."""

from transformers import Qwen2Config, Qwen2ForCausalLM

from pipeline.families.decoder import decoder, decoder_tensors

QWEN2 = decoder("qwen2", Qwen2ForCausalLM, Qwen2Config, decoder_tensors(attention_bias=True), refused={})
