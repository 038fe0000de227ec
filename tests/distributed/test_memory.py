"""The bytes that a rank keeps, as estimated before a run, against the tensors that are there in one."""

import gc

import pytest
import torch

from pipeline.families import scratch_config
from pipeline.recipe import ModelConfig, OptimizerConfig
from pipeline.training.footprint import memory_by_stage
from pipeline.training.parameter_groups import cut
from tests.distributed.engines import built, engine_config
from tests.ranks import run_ranks

RANKS = 2
HIDDEN, VOCABULARY = 256, 2000
LARGEST = HIDDEN * VOCABULARY
BUCKET = 600_000
CASES = [(0, False), *((stage, half) for stage in (1, 2, 3) for half in (False, True))]
"""ZeRO stages, in float32 and in bfloat16."""


def described():
    model = ModelConfig(family="gpt2", hidden_size=HIDDEN, num_hidden_layers=4, num_attention_heads=4)
    return scratch_config(model, vocab_size=VOCABULARY, eos_id=0, sequence_length=16)


def measure(stage: int, half: bool) -> int:
    """Bytes of all tensors of a rank after the first of a step's two micro-batches; the optimizer has stepped before."""
    # A bucket is as large as DeepSpeed's file says, whatever the model: here, as its largest tensor.
    ds_config = engine_config({"stage": stage, "reduce_bucket_size": BUCKET}, 2 * RANKS, bf16=half, accumulation=2)
    gc.collect()
    before = bytes_there()
    model = built(described(), ds_config, OptimizerConfig(), cut(4, []))
    tokens = torch.arange(16).view(1, 16)
    for micro_batch in range(3):
        model.engine.backward(model.logits(tokens).tokens.float().logsumexp(dim=-1).mean())
        if micro_batch < 2:
            model.engine.step()
    gc.collect()
    kept = bytes_there() - before
    model.close()
    return kept


def measure_all() -> list[int]:
    return [measure(stage, half) for stage, half in CASES]


def bytes_there() -> int:
    """Bytes of all storages of tensors."""
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    tensors += [tensor.grad for tensor in tensors if tensor.is_leaf and tensor.grad is not None]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


@pytest.mark.full
def test_ranks_keep_what_was_told():
    """Beside the estimate and a bucket there is no more than one tensor: the one that a piece or the bucket ends in."""
    for measured in run_ranks(measure_all, RANKS):
        for (stage, half), found in zip(CASES, measured, strict=True):
            dtype = torch.bfloat16 if half else torch.float32
            estimate = memory_by_stage(described(), OptimizerConfig(), dtype, RANKS)[stage]
            # Between micro-batches nothing is stepped.
            kept = estimate.total - estimate.stepping
            bucket = (BUCKET + LARGEST) * dtype.itemsize if stage else 0
            # Token ids, the loss, paddings.
            assert 0 <= found - kept <= bucket + 4096, (stage, half)
