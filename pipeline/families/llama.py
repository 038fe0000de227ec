"""Llama."""

from transformers import LlamaForCausalLM

from pipeline.families.decoder import BPE_OR_WORDS, decoder

LLAMA = decoder(
    LlamaForCausalLM,
    refused={"pretraining_tp": (1, None)},
    tokenizers=BPE_OR_WORDS,
    variants=({"attention_bias": True, "mlp_bias": True},),
)
