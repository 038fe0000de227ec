"""Grow a stock GPT-2 to twice its width and half as many layers more; its logits stay what they were."""

from tempfile import mkdtemp

import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from pipeline import grow

small = GPT2LMHeadModel(GPT2Config(n_embd=128, n_layer=4, n_head=4)).eval()  # or from_pretrained("gpt2")
grown = grow(small, mkdtemp(), hidden_size=256, num_hidden_layers=6)  # or any directory that is new or empty
large = AutoModelForCausalLM.from_pretrained(grown.directory).eval()

ids = torch.arange(64)[None]
with torch.no_grad():
    difference = (large(ids).logits - small(ids).logits).abs().max()
print(f"{small.num_parameters():,} -> {large.num_parameters():,} parameters, {grown.certificate['verdict']}")
print(f"largest difference of a logit: {difference:.0e}")
