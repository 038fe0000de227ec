"""Qwen3: Llama with a norm over each head's query and key."""

from transformers import Qwen3Config, Qwen3ForCausalLM

from pipeline.families.decoder import decoder, decoder_tensors

QWEN3 = decoder("qwen3", Qwen3ForCausalLM, Qwen3Config, decoder_tensors(qk_norm=True), refused={"attention_bias": (False,)})
