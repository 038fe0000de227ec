"""Mistral: Llama's tensors under a sliding window."""

from transformers import MistralConfig, MistralForCausalLM

from pipeline.families.decoder import decoder, decoder_tensors

MISTRAL = decoder("mistral", MistralForCausalLM, MistralConfig, decoder_tensors(), refused={})
