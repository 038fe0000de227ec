"""Routers in DeepSpeed: their losses whatever the ranks, micro-batches and ZeRO stage, and what a step waits for."""

import pytest

from pipeline.runs.records import ROUTER_KEYS
from pipeline.training import distributed
from tests.distributed.steps import take_step, trainer
from tests.ranks import run_ranks
from tests.waits import Waits

WEIGHTS = {"router_aux_loss_coef": 0.5, "router_z_loss_coef": 0.1}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "intermediate_size": 16}
KEYS = ("loss", "grad_norm", *ROUTER_KEYS)


def router_metrics(cases):
    """Return by case what rank 0 records of some steps, and what launching the last one waits for."""
    found = []
    for stage, micro_batch, checkpointed, sharing in cases:
        division = {
            "train_batch_size": 8,
            "train_micro_batch_size_per_gpu": micro_batch,
            "gradient_accumulation_steps": 8 * sharing // (micro_batch * distributed.world_size()),
            "sequence_parallel_size": sharing,
        }
        options = {"half": False, "ds_config": division, "model": EXPERTS, "checkpointed": checkpointed, "router": WEIGHTS}
        with trainer("qwen3_moe", stage, **options) as made:
            for _ in range(3):
                take_step(made)
            with Waits() as launched:
                take_step(made)
            made.steps.judge()
            records = made.context.records.metrics.read() if distributed.rank() == 0 else []
        found.append(([{key: record[key] for key in KEYS} for record in records], launched.seen))
    return found


def test_routers_learn_the_same_at_any_number_of_ranks_and_micro_batches():
    ((steps, waits), *others), *_ = run_ranks(router_metrics, 1, [(1, 8, False, 1), (2, 2, False, 1)])
    others += run_ranks(router_metrics, 2, [(2, 4, False, 1), (3, 2, True, 1), (2, 4, False, 2)])[0]
    # Loads are uneven, so that the balancing loss has a gradient.
    assert len(steps) == 4 and steps[-1]["expert_load_max"] > 1.1 and steps[-1]["router_aux_loss"] > 2.001
    assert waits == []
    for again, waited in others:
        assert waited == []
        for one, other in zip(steps, again, strict=True):
            # fp32, in other orders.
            assert other == pytest.approx(one, rel=1e-6)
