"""A bare DeepSpeed script: a saved GPT-2, one step on a batch of prepared ids; then rank 0 writes a line. Started once a rank.

python bare_deepspeed.py MODEL_DIRECTORY IDS.bin LENGTH SEQUENCES DS_CONFIG.json FILE
"""

import json
import os
import sys
from pathlib import Path

import deepspeed
import numpy
import torch
from deepspeed.accelerator import get_accelerator
from torch.nn.functional import cross_entropy
from transformers import GPT2LMHeadModel
from transformers.integrations import HfDeepSpeedConfig


def main(directory: Path, ids: Path, length: int, sequences: int, ds_config: Path, output: Path) -> None:
    """Take a step."""
    # Compiled at the first start, for a minute.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(get_accelerator().communication_backend_name())
    config = json.loads(ds_config.read_text(encoding="utf-8"))
    # Under ZeRO-3 from_pretrained partitions the model for as long as this is alive.
    partitioning = HfDeepSpeedConfig(config)
    model = GPT2LMHeadModel.from_pretrained(directory)
    del partitioning
    engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters(), fused=True), config=config)
    first = int(os.environ["RANK"]) * sequences * length
    batch = numpy.memmap(ids, numpy.uint16)[first : first + sequences * length].astype(numpy.int64)
    batch = torch.from_numpy(batch).reshape(sequences, length).to(engine.device)
    logits = engine(input_ids=batch, use_cache=False).logits
    engine.backward(cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten()))
    engine.step()
    if os.environ["RANK"] == "0":
        output.write_text("step 1\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:5]), *map(Path, sys.argv[5:7]))
