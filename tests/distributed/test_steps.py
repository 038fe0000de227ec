"""What a training step has the host wait for, how much it gives to the device, and what is judged a step later."""

import math
from contextlib import nullcontext
from unittest.mock import patch

import pytest
import torch

from pipeline.families import FAMILIES, scratch_config
from pipeline.recipe import ModelConfig
from pipeline.training import distributed
from pipeline.training.attention import packing_known, seen_alone, within_documents
from pipeline.training.loop.steps import RewindError
from tests.distributed.steps import VOCABULARY, take_step, trainer
from tests.families import WITH_A_MIXTURE
from tests.ranks import run_ranks
from tests.waits import Waits

# --- waits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: bool(x.any()),
        lambda x: float(x.sum()),
        lambda x: int(x.sum()),
        lambda x: x if x.sum() > 0 else None,
        lambda x: x.numpy(),
        lambda x: x.cpu(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.index_put_((x > 1,), torch.ones(())),
        lambda x: x.masked_select(x > 0),
        lambda x: x.masked_fill_(x > 0, torch.ones(())),
        lambda x: torch.tensor(1.0, device="cpu"),
        lambda x: torch.equal(x, x),
        lambda x: x.unique(),
        lambda x: torch.repeat_interleave(x.long()),
    ],
)
def test_what_makes_the_host_wait_is_counted(work):
    with Waits() as waits:
        work(torch.arange(3.0))
    assert len(waits.seen) == 1, waits.seen


def test_what_the_device_does_by_itself_is_not_counted():
    x = torch.arange(3.0)
    with Waits() as waits:
        y = torch.where(x > 0, x, math.nan).nan_to_num().masked_fill(x > 1, 0.0).index_select(0, torch.tensor([0, 1]))
        torch._foreach_norm([x, y])
        x[1:] += y.sum()
    assert not waits.seen and waits.operations


def waits_of_steps(families: list[str], stages: list[int], half: bool) -> dict[tuple[str, int], tuple[list[str], list[str]]]:
    """Return what one step waits for while it is launched, and while it is judged."""
    seen = {}
    for family in families:
        for stage in stages:
            with trainer(family, stage, half=half) as made:
                for _ in range(3):
                    take_step(made)
                    made.steps.judge()
                with Waits() as launched:
                    take_step(made)
                with Waits() as judged:
                    made.steps.judge()
            seen[family, stage] = launched.seen, judged.seen
    return seen


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("half", [True, pytest.param(False, marks=pytest.mark.full)])
def test_the_host_waits_for_the_device_where_a_step_is_judged_and_nowhere_else(ranks, half):
    """Under ZeRO 3 DeepSpeed waits for one stream more on CUDA, at the end of each backward pass, which is not seen here."""
    for seen in run_ranks(waits_of_steps, ranks, ["gpt2", "bert"], [0, 1, 2, 3], half):
        for case, (launched, judged) in seen.items():
            assert launched == [], case
            assert len(judged) == 1 and judged[0].startswith("numpy at distributed.py"), (case, judged)


@pytest.mark.parametrize("family", WITH_A_MIXTURE)
@pytest.mark.parametrize("packed", [False, True])
def test_a_forward_pass_waits_for_nothing_and_documents_are_those_that_transformers_finds(family, packed):
    described = ModelConfig(family=family, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    config = scratch_config(described, VOCABULARY, 0, 8)
    config._attn_implementation = "sdpa" if FAMILIES[family].fused_attention else "eager"
    torch.manual_seed(1)
    model = FAMILIES[family].model_class(config).eval()
    ids = torch.randint(2, VOCABULARY, (3, 8))
    documents = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2], [0] * 8, [0, 1, 1, 1, 1, 1, 1, 1]]) if packed else None
    extra = {"use_cache": False} if FAMILIES[family].objective == "clm" else {}
    if packed:
        extra |= within_documents(FAMILIES[family], config, documents, torch.float32)
    with torch.no_grad():
        expected = model(input_ids=ids, **extra)[0]
        with Waits() as waits, packing_known(documents):
            seen = model(input_ids=ids, **extra)[0]
    assert torch.equal(expected, seen)
    assert not waits.seen


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.objective == "mlm"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_mask_of_what_stands_behind_a_pair_is_transformers_own_without_a_wait(family, attention):
    described = ModelConfig(family=family, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    config = scratch_config(described, VOCABULARY, 0, 8)
    config._attn_implementation = attention
    torch.manual_seed(1)
    model = FAMILIES[family].model_class(config).eval()
    ids, seen = torch.randint(2, VOCABULARY, (3, 8)), torch.ones(3, 8, dtype=torch.long)
    seen[0, 5:], seen[2, 7:] = 0, 0
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=seen)[0]
        with Waits() as waits:
            found = model(input_ids=ids, attention_mask=seen_alone(config, seen, torch.float32))[0]
    assert torch.equal(expected, found) and not waits.seen


# --- operations -----------------------------------------------------------------------------------


def operations(stage: int) -> tuple[int, int]:
    """Return how many operations a step of 12 layers is by DeepSpeed's own defaults, and by ours."""
    counts, defaults = [], {"ds_config": {"bf16": {"enabled": True}, "timers": {}}}
    for way in (defaults, {}):
        left_out = patch("pipeline.deepspeed.engine.stay_on_the_device") if way else nullcontext()
        with left_out, trainer("gpt2", stage, layers=12, **way) as made:
            for _ in range(2):
                take_step(made)
                made.steps.judge()
            with Waits() as launched:
                take_step(made)
        counts.append(launched.operations)
    return tuple(counts)


def operations_of_stages() -> list[tuple[int, int]]:
    return [operations(stage) for stage in (1, 2)]


def test_a_step_is_less_than_half_of_the_operations_that_it_is_by_deepspeeds_defaults():
    for theirs, ours in run_ranks(operations_of_stages, 1)[0]:
        assert ours < theirs / 2, (ours, theirs)


# --- judged a step later --------------------------------------------------------------------------


def trained(ahead: int, bad: list[int], **changes: object) -> tuple:
    """Return what a run records that is judged so many steps later, and how it ends; steps `bad` have no number for a loss."""
    import pipeline.training.loop.steps as loop

    plain, calls = loop.summed_losses, []

    def losses(*arguments):
        calls.append(None)
        # Of two micro-batches a step.
        step = (len(calls) + 1) // 2
        sums = plain(*arguments)
        return sums._replace(tokens=sums.tokens * math.nan) if step in bad else sums

    with (
        patch.object(loop, "steps_ahead", lambda: ahead),
        patch.object(loop, "summed_losses", losses),
        trainer("gpt2", 2, half=False, steps=9, **changes) as made,
    ):
        try:
            end = made.train()
        except RewindError as rewind:
            end = str(rewind), rewind.step, rewind.samples
        made.context.records.metrics.flush()
        records = made.context.records.metrics.read()
        weights = [parameter.detach().clone().numpy() for parameter in made.model.module.parameters()]
        saved = made.context.checkpoints.last.step if made.context.checkpoints.last else None
    timeless = [{key: value for key, value in record.items() if key not in ("seconds", "mfu")} for record in records]
    assert all(record["seconds"] > 0 for record in records)
    return timeless, end, weights, saved


EVERY_THREE = {"evaluation": {"every": 3, "windows": 4}, "checkpointing": {"every": 4}}
JUDGED = {
    "no step is bad": ([], EVERY_THREE),
    "two steps are bad": ([2, 6], EVERY_THREE),
    "goes back": ([4, 5], {"guard": {"skipped_steps": 2}, "evaluation": {"every": 1000, "windows": 4}}),
    "goes back after an evaluation": ([4, 5], {"guard": {"skipped_steps": 2}, "evaluation": {"every": 5, "windows": 4}}),
}


def trained_now_and_later() -> dict[str, tuple]:
    return {name: tuple(trained(ahead, bad, **changes) for ahead in (0, 1)) for name, (bad, changes) in JUDGED.items()}


@pytest.fixture(scope="module")
def judged():
    """Each run, judged at once and a step later."""
    return run_ranks(trained_now_and_later, 1)[0]


@pytest.mark.parametrize("name", ["no step is bad", "two steps are bad"])
def test_a_run_that_is_judged_a_step_later_is_the_same(judged, name):
    now, later = judged[name]
    assert now[0] == later[0] and now[1] == later[1] and now[3] == later[3] == 9
    assert all((one == other).all() for one, other in zip(now[2], later[2], strict=True))
    assert [record["step"] for record in now[0]] == list(range(1, 10))
    assert [record["step"] for record in now[0] if record["skipped"]] == JUDGED[name][0]


@pytest.mark.parametrize(("name", "late"), [("goes back", 6), ("goes back after an evaluation", 5)])
def test_a_run_goes_back_from_the_same_step_and_past_the_same_data_once_all_is_recorded(judged, name, late):
    now, later = judged[name]
    assert now[1] == later[1] and now[1][1:] == (5, 20)
    assert [record["step"] for record in now[0]] == [1, 2, 3, 4, 5]
    # The step that was under way is recorded too, unless there was an evaluation before it.
    assert [record["step"] for record in later[0]] == list(range(1, late + 1)) and later[0][:5] == now[0]


# --- numbers under way ----------------------------------------------------------------------------


def exchanged() -> tuple[list[float], list[float], float]:
    rank = distributed.rank()
    tensor = torch.tensor([1.5 + rank])
    distributed.add_up(tensor)
    arriving = distributed.HostCopy(tensor[0], math.inf, torch.tensor(2.0, dtype=torch.float64))
    return distributed.total(rank, 2.5), arriving.read(), float(tensor)


@pytest.mark.parametrize("ranks", [1, 2])
def test_numbers_are_summed_over_ranks_and_arrive_in_their_order(ranks):
    for totals, read, summed in run_ranks(exchanged, ranks):
        assert totals == [sum(range(ranks)), 2.5 * ranks]
        assert summed == 1.5 * ranks + sum(range(ranks)) and read == [summed, math.inf, 2.0]


# --- ZeRO 3's layers as leaves --------------------------------------------------------------------


def losses_of_a_few_steps(leaves: dict[str, object]) -> list[float]:
    losses = []
    zero = {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0, **leaves}}
    with trainer("gpt2", 3, half=False, layers=4, ds_config=zero) as made:
        for _ in range(5):
            take_step(made)
            losses += made.steps._launched[-1].arriving.read()
            made.steps.judge()
    return losses


def losses_with_leaves_and_without() -> list[list[float]]:
    """Return the losses of steps that train all of a model under ZeRO 3."""
    return [losses_of_a_few_steps(leaves) for leaves in ({"leaf_module": {"classes": ["GPT2Block"]}}, {})]


def test_layers_that_are_fetched_as_wholes_change_no_loss():
    for seen, expected in run_ranks(losses_with_leaves_and_without, 2):
        assert seen == expected and len(set(seen)) > 5
