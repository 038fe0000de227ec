"""Sequences that ranks share: losses, gradients and evaluations are those of a rank that has them to itself."""

import pytest

from pipeline.common.errors import UserError
from pipeline.families import scratch_config
from pipeline.recipe import ModelConfig
from pipeline.training import distributed
from pipeline.training.sequence_parallel import check_heads_divide, check_length_divides
from tests.distributed.engines import can_compile
from tests.distributed.steps import take_step, trainer
from tests.ranks import run_ranks

GROUPED = {"num_attention_heads": 4, "num_key_value_heads": 2}
ONE_GROUP = {"num_attention_heads": 4, "num_key_value_heads": 1}
CASES = {
    "gpt2, ZeRO 1": ("gpt2", 1, {}),
    "gpt2, ZeRO 3, documents apart": ("gpt2", 3, {"apart": True}),
    "llama, ZeRO 2, grouped queries": ("llama", 2, {"model": GROUPED}),
    "qwen3, ZeRO 3, fewer key-value heads than ranks": ("qwen3", 3, {"model": ONE_GROUP}),
    "mistral, ZeRO 1, a window": ("mistral", 1, {"model": GROUPED, "window": 5}),
    "bert, ZeRO 1": ("bert", 1, {}),
    "modernbert, ZeRO 3, a window, documents apart": ("modernbert", 3, {"window": 5, "apart": True}),
    "llama, ZeRO 3, activations checkpointed": ("llama", 3, {"model": GROUPED, "checkpointed": True}),
    "roberta, ZeRO 3, documents apart": ("roberta", 3, {"apart": True}),
    "gpt2, ZeRO 1, the loss with its matrix": ("gpt2", 1, {"fused": True}),
    "bert, ZeRO 3, the loss with its matrix": ("bert", 3, {"fused": True}),
    "llama, ZeRO 1, a padded matrix": ("llama", 1, {"model": GROUPED, "padded": 64}),
}
COMPILED = {
    "gpt2, ZeRO 1": ("gpt2", 1, {"layers": 1, "compiled": True}),
    "llama, ZeRO 2, documents apart": ("llama", 2, {"layers": 1, "model": GROUPED, "apart": True, "compiled": True}),
}
ROUNDING = 2e-6
"""Of losses of 4.6, in fp32: attention over slices sums in another order."""


def losses(cases: list[tuple], sharing: int) -> list[tuple[list[float], list[float], float]]:
    """Return by case the losses and gradient norms of some steps, and the held-out loss behind them."""
    found = []
    for name, stage, options in cases:
        accumulation = 4 * sharing // distributed.world_size()
        division = {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": accumulation}
        with trainer(name, stage, half=False, ds_config=division | {"sequence_parallel_size": sharing}, **options) as made:
            for _ in range(4):
                take_step(made)
            made.steps.judge()
            records = made.context.records.metrics.read() if distributed.rank() == 0 else []
            heldout = made.evaluate(None)
        found.append(([record["loss"] for record in records], [record["grad_norm"] for record in records], heldout))
    return found


@pytest.mark.parametrize(("ranks", "sharing"), [(2, 2), pytest.param(4, 2, marks=pytest.mark.full)])
def test_ranks_that_share_sequences_train_as_one_that_does_not(ranks, sharing):
    compare(CASES, ranks, sharing)


@pytest.mark.skipif(not can_compile(), reason="no compiler here: Debian's packages g++ and python3-dev have it")
@pytest.mark.full
def test_ranks_that_share_sequences_train_compiled_layers_as_one_that_does_not():
    compare(COMPILED, 2, 2)


def compare(cases: dict[str, tuple], ranks: int, sharing: int) -> None:
    """Hold what ranks that share sequences record against what one rank does."""
    (alone,) = run_ranks(losses, 1, list(cases.values()), 1)
    shared = run_ranks(losses, ranks, list(cases.values()), sharing)[0]
    for case, one, other in zip(cases, alone, shared, strict=True):
        assert len(one[0]) == 4
        assert other[0] == pytest.approx(one[0], abs=ROUNDING), case
        # Weights have moved by then: a gradient that lacked what other ranks have would show in the next loss.
        assert other[1] == pytest.approx(one[1], rel=1e-4), case
        assert other[2] == pytest.approx(one[2], abs=ROUNDING), case


def test_what_does_not_divide_is_refused_by_its_key():
    def config(**heads: int):
        return scratch_config(ModelConfig(family="llama", hidden_size=48, num_hidden_layers=1, **heads), 100, 0, 16)

    for ranks in (1, 3, 6):
        check_heads_divide(config(num_attention_heads=6, num_key_value_heads=3), ranks)
    with pytest.raises(UserError, match="sequence_parallel_size: 4 does not divide the model's 6 attention heads"):
        check_heads_divide(config(num_attention_heads=6, num_key_value_heads=3), 4)
    with pytest.raises(UserError, match="neither divides the model's 3 key-value heads nor is a multiple"):
        check_heads_divide(config(num_attention_heads=6, num_key_value_heads=3), 2)
    check_length_divides(16, 4, "data.")
    with pytest.raises(UserError, match=r"data\.sequence_length: 16 is no multiple of sequence_parallel_size, 3"):
        check_length_divides(16, 3, "data.")
