"""Llama."""

from transformers import LlamaConfig, LlamaForCausalLM

from pipeline.families.decoder import decoder, decoder_tensors

LLAMA = decoder(
    "llama",
    LlamaForCausalLM,
    LlamaConfig,
    decoder_tensors(),
    refused={"attention_bias": (False,), "mlp_bias": (False,), "pretraining_tp": (1, None)},
)
