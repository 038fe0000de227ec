"""How far a loss moves in the steps after an exact growth at the full learning rate, with Adam's state grown."""

import pytest
import torch

from pipeline.families import target_config
from pipeline.growth.huggingface import MappedTensor
from pipeline.growth.optimizer_growth import begin_optimizer
from pipeline.growth.plan import plan_growth
from pipeline.recipe import GrowthConfig, TargetConfig
from pipeline.recipe.growth import AddedConfig
from pipeline.training.adamw import FreezableAdamW
from tests.pipeline.growth.models import VOCAB, loaded, small_model, state_of
from tests.pipeline.training.optimizers import kept_by, restore

LENGTH, BEFORE, AFTER, EVERY = 16, 250, 50, 10
DRAW = torch.Generator().manual_seed(0)
FIRST, SECOND = torch.softmax(2.0 * torch.randn(2, VOCAB, VOCAB, generator=DRAW), -1)


def text(seed: int, sequences: int) -> torch.Tensor:
    """Return sequences whose tokens depend on the two before them."""
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCAB, (sequences, LENGTH), generator=draw)
    for place in range(2, LENGTH):
        likely = FIRST[tokens[:, place - 1]] * SECOND[tokens[:, place - 2]]
        tokens[:, place] = torch.multinomial(likely, 1, generator=draw)[:, 0]
    return tokens


BATCHES = [text(number, 32) for number in range(BEFORE + AFTER)]
HELDOUT = text(BEFORE + AFTER, 256)


def loss(model, tokens):
    logits = model(tokens).logits[:, 1:-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 2:].flatten())


def trained(model, kept, added, batches) -> tuple[list[float], dict]:
    """Return held-out losses, every few steps and at the end, and what the optimizer keeps by then."""
    group = {"params": [*model.parameters()], "frozen": False}
    adamw = FreezableAdamW([group], lr=4e-3, betas=(0.9, 0.98), weight_decay=0.05)
    adamw.added = added
    restore(adamw, model, kept or {})
    losses = []
    for number, tokens in enumerate(batches):
        if number % EVERY == 0:
            with torch.no_grad():
                losses.append(loss(model, HELDOUT).item())
        adamw.zero_grad()
        loss(model, tokens).backward()
        adamw.step()
    with torch.no_grad():
        losses.append(loss(model, HELDOUT).item())
    return losses, kept_by(adamw, model)


@pytest.fixture(scope="module")
def source():
    """A small GPT-2 in the middle of its training, what its AdamW keeps, and how it goes on."""
    model = small_model("gpt2", layers=1).float()
    model.apply(model._init_weights)
    _, kept = trained(model, None, AddedConfig(), BATCHES[:BEFORE])
    state = {name: MappedTensor(value.rows(0, value.shape[0]).clone()) for name, value in state_of(model).items()}
    gone_on, _ = trained(model, kept, AddedConfig(), BATCHES[BEFORE:])
    return model.config, state, kept, gone_on


def moved(source, target, operators, added) -> float:
    """Return by how much the loss differs, at most, from that of the source that trains on by the same batches."""
    config, state, kept, gone_on = source
    growth = GrowthConfig(**operators, optimizer_state="grow", added=added)
    plan = plan_growth(config, target_config(config, TargetConfig(**target)), growth, 3, stock=True)
    weights = {name: tensor.rows(0, tensor.shape[0]) for name, tensor in plan.grow(state).items()}
    grown = loaded(weights, plan.config).float()
    losses, _ = trained(grown, begin_optimizer(plan, kept), growth.added, BATCHES[BEFORE:])
    assert losses[0] == pytest.approx(gone_on[0], abs=1e-5)
    return max(abs(ours - theirs) for ours, theirs in zip(losses, gone_on, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "operators", "slowly"),
    [
        # Three copies of one layer, which have the same gradients at first and so do together three times what one does.
        ({"num_hidden_layers": 4}, {"depth": "interleave"}, {"warmup_steps": 100, "lr_ratio": 0.33, "decay_steps": 300}),
        ({"hidden_size": 64}, {"width": "exact_aki"}, {"warmup_steps": 100}),
    ],
    ids=["depth", "width"],
)
def test_the_loss_moves_by_less_than_a_hundredth_where_what_is_added_warms_up_and_by_more_at_the_full_rate(
    source, target, operators, slowly
):
    assert moved(source, target, operators, {}) > 0.015
    assert moved(source, target, operators, slowly) < 0.01
