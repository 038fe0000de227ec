"""Sections under two DeepSpeed ranks: layers that run otherwise and traces that are kept change no loss and no weight."""

from contextlib import nullcontext
from unittest.mock import patch

import pytest
import torch
from torch._dynamo.utils import counters
from torch.utils.flop_counter import FlopCounterMode

from pipeline.data.objectives import IGNORED
from pipeline.families import ActiveLayers
from pipeline.flops.counts import ForwardFlops, training_step
from pipeline.training import distributed
from pipeline.training.loop.running import running, scoring
from pipeline.training.losses import summed_loss, summed_losses
from tests.distributed.engines import built, can_compile, full_weight
from tests.distributed.steps import take_step, trainer
from tests.distributed.test_freezing import BATCH, GROUPS, LAYERS, LENGTH, OPTIMIZER, VOCAB, ds_config, model_config
from tests.ranks import run_ranks

SECTIONS = [
    ActiveLayers.top(2, 2),
    ActiveLayers.whole(LAYERS),
    # Gradients go through layers 2 and 3, which stand still.
    ActiveLayers(LAYERS, frozenset({0, 1}), embeddings=False, head=False),
    ActiveLayers(LAYERS, frozenset(), embeddings=False, head=True),
    *[ActiveLayers.top(4, 2), ActiveLayers.top(2, 2)] * 2,
    ActiveLayers.whole(LAYERS),
]


def train(family: str, stage: int, how: dict[str, bool], *, scored: str = "all", traces: bool = True):
    """Return the losses of a step of each active, the weights after it, and the passes that fetched ahead."""
    with nullcontext() if traces else patch("pipeline.deepspeed.engine.TraceCache"):
        trained = built(model_config(family, True), ds_config(stage, 1), OPTIMIZER, GROUPS, **how)
    generator = torch.Generator().manual_seed(4)
    mine = slice(distributed.rank() * BATCH // 2, (distributed.rank() + 1) * BATCH // 2)
    losses, ahead = [], 0
    for active in SECTIONS:
        ids, labels = torch.randint(0, VOCAB, (2, BATCH, LENGTH), generator=generator)
        # The first rank scores a little, the second nothing.
        labels[:, 3:] = IGNORED
        labels[BATCH // 2 :] = IGNORED
        trained.learn(active)
        chosen = labels[mine]
        with running(trained.module, trained.family, active):
            if scored == "all":
                loss = summed_loss(trained.logits(ids[mine]).tokens, chosen)
            else:
                with scoring(trained.module, trained.family, chosen) as targets:
                    loss = summed_losses(trained.logits(ids[mine]), targets, None).tokens
        trained.engine.backward(loss / BATCH)
        if stage == 3:
            ahead += trained.engine.optimizer.parameter_offload.get_param_coordinator().is_complete_trace()
        trained.engine.step()
        losses.append(distributed.total(loss.item())[0])
    weights = {name: full_weight(p) for name, p in trained.module.named_parameters()}
    trained.close()
    return losses, weights, ahead


def trained_in_ways(family: str, ways: list[tuple[int, dict, dict]]) -> list:
    return [train(family, stage, how, **options) for stage, how, options in ways]


def check_equal(family: str, ways: list[tuple[int, dict, dict]], timeout: float = 240) -> None:
    """Hold each way to train against the first."""
    (expected, *others), _ = run_ranks(trained_in_ways, 2, family, ways, timeout=timeout)
    for losses, weights, _ in others:
        # fp32 sums in another order, magnified by Adam's division where a gradient is near 0.
        assert losses == pytest.approx(expected[0], rel=2e-6)
        assert max((expected[1][name] - weight).abs().max().item() for name, weight in weights.items()) < 1e-4


CHECKPOINTED = {"activation_checkpointing": True}


@pytest.mark.parametrize("family", ["bert", pytest.param("qwen3", marks=pytest.mark.full)])
def test_checkpointed_activations_change_nothing(family):
    ways = [(0, {}, {}), *((stage, CHECKPOINTED, {}) for stage in range(4))]
    check_equal(family, ways)


def counted_and_reckoned(family: str) -> list[tuple[int, int]]:
    """Return what torch counts of a rank's step of each active under ZeRO 3, layers run again, and what the formula does."""
    config, cases = model_config(family, True), []
    trained = built(config, ds_config(3, 1), OPTIMIZER, GROUPS, attention="eager", activation_checkpointing=True)
    ids = torch.randint(0, VOCAB, (BATCH // 2, LENGTH), generator=torch.Generator().manual_seed(4))
    tokens = ids.numel()
    for active in SECTIONS[:4]:
        trained.learn(active)
        with FlopCounterMode(display=False) as counter, running(trained.module, trained.family, active):
            trained.engine.backward(summed_loss(trained.logits(ids).tokens, ids) / BATCH)
        trained.engine.step()
        again = {"recomputed": True, "zero_linear": True}
        formula = training_step(ForwardFlops.of(config), LENGTH, tokens, scored=tokens, active=active, **again)
        cases.append((counter.get_total_flops(), formula.executed_total))
    trained.close()
    return cases


@pytest.mark.skipif(
    torch.__version__ < (2, 13),
    reason="what a checkpoint runs again is that of torch 2.13; 2.11 leaves out the lowest layer where nothing below it learns",
)
@pytest.mark.parametrize("family", ["gpt2", "llama", pytest.param("bert", marks=pytest.mark.full)])
def test_flops_of_layers_run_again_by_zeros_own_linear(family):
    cases, _ = run_ranks(counted_and_reckoned, 2, family)
    for counted, estimated in cases:
        assert counted == estimated


def test_a_rank_may_score_nothing():
    ways = [(0, {}, {}), *((stage, how, {"scored": "some"}) for stage in (2, 3) for how in ({}, CHECKPOINTED))]
    check_equal("bert", ways)


@pytest.mark.parametrize("family", ["bert", "gpt2", pytest.param("llama", marks=pytest.mark.full)])
def test_an_output_matrix_that_is_padded_or_runs_with_the_loss_changes_nothing_at_any_stage(family):
    padded, both = {"make_vocab_size_divisible_by": 64}, {"make_vocab_size_divisible_by": 8, "fused_linear_cross_entropy": True}
    hows = [(0, {}), (3, padded), *((stage, both) for stage in range(4))]
    check_equal(family, [(stage, how, {"scored": "some"}) for stage, how in hows])


def test_traces_that_are_kept_fetch_ahead_and_change_nothing():
    (left, kept), _ = run_ranks(trained_in_ways, 2, "gpt2", [(3, {}, {"traces": False}), (3, {}, {})])
    assert left[:1] == kept[:1]
    assert all(torch.equal(left[1][name], kept[1][name]) for name in left[1])
    # Of nine passes in five ways, four run as one before them.
    assert kept[2] == 4 > left[2]


@pytest.mark.full
@pytest.mark.skipif(not can_compile(), reason="no compiler here: Debian's packages g++ and python3-dev have it")
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_compiled_layers_change_nothing(family):
    ways = [(0, {}, {}), *((stage, {"compile": True} | how, {}) for stage in (0, 2, 3) for how in ({}, CHECKPOINTED))]
    check_equal(family, ways, timeout=900)


def graphs_of_leaves() -> tuple[int, int, list[float]]:
    """Return how many graphs were compiled, how often one was interrupted, and the losses, of layers that are leaves."""
    counters.clear()
    zero = {"stage": 3, "leaf_module": {"classes": ["GPT2Block"]}}
    with trainer("gpt2", 3, half=False, compiled=True, ds_config={"zero_optimization": zero}) as made:
        for _ in range(2):
            take_step(made)
            made.steps.judge()
        losses = [record["loss"] for record in made.context.records.metrics.read()]
    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values()), losses


@pytest.mark.skipif(not can_compile(), reason="no compiler here: Debian's packages g++ and python3-dev have it")
def test_layers_that_are_leaves_are_compiled_whole_under_zero_3():
    ((graphs, interruptions, losses),) = run_ranks(graphs_of_leaves, 1)
    assert graphs >= 1 and interruptions == 0 and len(losses) == 2
