"""DirectCopy as one would write it: load a GPT-2, make a larger one, copy the corner of each tensor, layers in turn; save.

python huggingface_copy.py SOURCE LAYERS HIDDEN OUT
"""

import sys

import torch
from transformers import AutoConfig, AutoModelForCausalLM


def main(source: str, layers: int, hidden: int, out: str) -> None:
    """Load, copy, save."""
    small = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    config = AutoConfig.from_pretrained(source)
    config.n_layer, config.n_embd, config.n_head, config.n_inner = layers, hidden, hidden // 64, None
    # What is not copied stays as the model's own initialization draws it.
    large = AutoModelForCausalLM.from_config(config)
    held = dict(small.named_parameters())
    with torch.no_grad():
        for name, parameter in large.named_parameters():
            words = name.split(".")
            if words[1] == "h":
                words[2] = str(int(words[2]) % small.config.n_layer)
            values = held[".".join(words)]
            if name.endswith(("c_attn.weight", "c_attn.bias")):
                # Query, key and value lie side by side.
                for new, old in zip(parameter.chunk(3, -1), values.chunk(3, -1), strict=True):
                    new[tuple(map(slice, old.shape))] = old
            else:
                parameter[tuple(map(slice, values.shape))] = values
    large.save_pretrained(out)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
