"""A bare DeepSpeed script: one step of a GPT-2 under ZeRO-3 on ids that say nothing, by one rank; then it writes a line.

python bare_deepspeed.py LAYERS HIDDEN LENGTH SEQUENCES DS_CONFIG.json FILE
"""

import os
import socket
import sys
from pathlib import Path

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

VOCABULARY = 400


def main(layers: int, hidden: int, length: int, sequences: int, ds_config: Path, told: Path) -> None:
    """Take a step."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    # Compiled at the first start, for a minute, and of no use to one rank.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(get_accelerator().communication_backend_name())
    heads = max(2, hidden // 64)
    config = GPT2Config(n_embd=hidden, n_layer=layers, n_head=heads, n_positions=length, vocab_size=VOCABULARY)
    with deepspeed.zero.Init(config_dict_or_path=str(ds_config)):
        model = GPT2LMHeadModel(config)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=torch.optim.AdamW(model.parameters(), fused=True), config=str(ds_config)
    )
    ids = torch.randint(0, VOCABULARY, (sequences, length), device=engine.device)
    logits = engine(input_ids=ids, use_cache=False).logits
    engine.backward(cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))
    engine.step()
    told.write_text("step 1\n", encoding="utf-8")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:5]), *map(Path, sys.argv[5:7]))
