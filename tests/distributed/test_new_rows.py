"""Rows of new tokens that learn by themselves: two DeepSpeed ranks against a plain loop in which they are a parameter apart."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call

from pipeline.deepspeed.loss_scale import restore_counters_and_scale
from pipeline.families import FAMILIES, ActiveLayers, family_of
from pipeline.growth.initialization import initialized
from pipeline.recipe import CheckpointingConfig, OptimizerConfig, TrainStage
from pipeline.training.directory.checkpoints import Checkpoints, TrainState
from pipeline.training.engine import build
from pipeline.training.parameter_groups import cut
from tests.distributed.engines import full_weight, train_step
from tests.distributed.test_freezing import BATCH, LAYERS, LENGTH, OPTIMIZER, VOCAB, ds_config, model_config
from tests.ranks import run_ranks

NEW = torch.tensor([3, 17, 18, VOCAB - 1])
GROUPS = cut(LAYERS, [TrainStage(name="rows", steps=1, trainable=["new_tokens", "layers.1"])])
WHOLE = ActiveLayers.whole(LAYERS)
ROWS = ActiveLayers(LAYERS, frozenset(), embeddings=False, head=False, new_tokens=True)
WITH_A_LAYER = ActiveLayers(LAYERS, frozenset({1}), embeddings=False, head=False, new_tokens=True)
DECAY = OPTIMIZER.weight_decay
OWN_RATE, OWN_DECAY = 9e-3, 0.0
STEPS = [(WHOLE, False), (ROWS, False), (ROWS, True), (WITH_A_LAYER, False), (WHOLE, True), (WHOLE, False)]
"""What learns, and whether the rows have a rate and a decay of their own."""
GOES_ON = 2
TABLES = {"gpt2": ["transformer.wte.weight"], "llama": ["model.embed_tokens.weight", "lm_head.weight"]}


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(11)
    return [tuple(draw) for draw in torch.randint(0, VOCAB, (len(STEPS), 2, BATCH, LENGTH), generator=generator)]


def plain_loop(family: str, config: OptimizerConfig) -> tuple[list[float], list[dict[str, torch.Tensor]]]:
    """Return each step's loss and the parameters behind it; each table is two parameters, which are put together to run."""
    described = model_config(family, family == "gpt2")
    model = FAMILIES[family].model_class(described)
    state = initialized(FAMILIES[family], described, 5)
    old = torch.tensor([row for row in range(VOCAB) if row not in NEW])
    order = torch.argsort(torch.cat([old, NEW]))
    parts: dict[str, nn.Parameter] = {}
    for name, rows in state.items():
        whole = rows.rows(0, rows.shape[0])
        if name in TABLES[family]:
            parts |= {f"{name} {which}": nn.Parameter(whole[of]) for which, of in (("old", old), ("new", NEW))}
        else:
            parts[name] = nn.Parameter(whole.clone())
    optimizer = torch.optim.AdamW(
        [{"params": [part], "name": name} for name, part in parts.items()], lr=config.lr, betas=config.betas, eps=config.eps
    )
    losses, seen = [], []
    for (active, own), (inputs, labels) in zip(STEPS, batches(), strict=True):
        tables = {name: torch.cat([parts[f"{name} old"], parts[f"{name} new"]])[order] for name in TABLES[family]}
        weights = {name: part for name, part in parts.items() if " " not in name} | tables
        logits = functional_call(model, weights, (inputs,)).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            name, (part,) = group["name"], group["params"]
            of_layer = any(f".{layer}." in name for layer in active.layers)
            if not (active == WHOLE or (active.new_tokens and name.endswith(" new")) or of_layer):
                part.grad = None
            rated = own and name.endswith(" new")
            group["lr"] = OWN_RATE if rated else config.lr
            group["weight_decay"] = OWN_DECAY if rated else config.weight_decay * (part.dim() > 1)
        torch.nn.utils.clip_grad_norm_(parts.values(), config.gradient_clipping)
        optimizer.step()
        losses.append(loss.item())
        whole = {name: torch.cat([parts[f"{name} old"], parts[f"{name} new"]])[order] for name in TABLES[family]}
        seen.append({name: value.detach().clone() for name, value in (weights | whole).items()})
    return losses, seen


def deepspeed_loop(family: str, stage: int, config: OptimizerConfig, folder: Path | None = None):
    """Return each step's loss and the parameters behind it; with a `folder` go through a checkpoint there at GOES_ON."""
    described = model_config(family, family == "gpt2")
    table = family_of(described)
    made = partial(build, table, described, new_tokens=NEW)
    settings = ds_config(stage, 1), config, GROUPS, "sdpa"
    trained = made(initialized(table, described, 5), *settings)
    losses, seen = [], []
    for number, ((active, own), (inputs, labels)) in enumerate(zip(STEPS, batches(), strict=True)):
        if number == GOES_ON and folder is not None:
            checkpoints, saved = Checkpoints(folder, CheckpointingConfig()), TrainState(1, number)
            checkpoints.save(trained, saved, must=True)
            trained.close()
            source = checkpoints.open(saved)
            trained = made(source.state, *settings, source.optimizer)
            restore_counters_and_scale(trained.engine, saved.counters, saved.loss_scale)
        trained.set_rates(lambda group, own=own: OWN_RATE if own and group.holds else config.lr)
        trained.set_decays(lambda group, own=own: OWN_DECAY if own and group.holds else DECAY)
        losses.append(train_step(trained, inputs, labels, active))
        # What stands still is not gathered.
        trained.learn(WHOLE)
        seen.append({name: full_weight(parameter).clone() for name, parameter in trained.module.named_parameters()})
    trained.close()
    return losses, seen


def loops(family: str, stages: list[int], config: OptimizerConfig) -> list:
    return [deepspeed_loop(family, stage, config) for stage in stages]


@pytest.mark.parametrize(("family", "stages"), [("gpt2", [0, 3]), ("llama", [1, 2])])
def test_rows_of_new_tokens_learn_alone_and_nothing_else_moves_under_any_zero_stage(family, stages):
    losses, expected = plain_loop(family, OPTIMIZER)
    (ranks, others) = run_ranks(loops, 2, family, stages, OPTIMIZER)
    for (theirs, seen), (_, on_another) in zip(ranks, others, strict=True):
        # fp32 sums in another order, magnified by Adam's division where a gradient is near 0; a row that moves by one step of
        # its momentum or decay moves by 1e-3 or 1e-4.
        assert max(abs(one - other) for one, other in zip(losses, theirs, strict=True)) < 2e-6
        for number, (active, _) in enumerate(STEPS):
            assert all(torch.equal(seen[number][name], on_another[number][name]) for name in seen[number])
            for name, weight in seen[number].items():
                assert (weight - expected[number][name]).abs().max() < 2e-5
                if active == ROWS:
                    still = torch.ones(len(weight), dtype=torch.bool)
                    still[NEW if name in TABLES[family] else []] = False
                    assert torch.equal(weight[still], seen[number - 1][name][still])
                    assert bool(still.all()) or not torch.equal(weight[~still], seen[number - 1][name][~still])


def loops_through_a_checkpoint(folder: Path) -> list:
    return [deepspeed_loop("gpt2", 3, OPTIMIZER, place) for place in (None, folder)]


def test_a_run_goes_on_between_steps_of_new_rows_to_the_bit(tmp_path):
    (whole, gone_on) = run_ranks(loops_through_a_checkpoint, 2, tmp_path)[0]
    assert whole[0] == gone_on[0]
    assert all(torch.equal(whole[1][-1][name], weight) for name, weight in gone_on[1][-1].items())


@pytest.mark.full
@pytest.mark.parametrize("name", ["lion", "muon"])
def test_other_optimizers_keep_still_what_is_no_row_of_a_new_token(name):
    config = OptimizerConfig(name=name, lr=3e-3, weight_decay=0.1, gradient_clipping=0.5)
    ((_, seen),) = run_ranks(loops, 2, "llama", [3], config)[0]
    for number in (1, 2):
        for tensor, weight in seen[number].items():
            still = torch.ones(len(weight), dtype=torch.bool)
            still[NEW if tensor in TABLES["llama"] else []] = False
            assert torch.equal(weight[still], seen[number - 1][tensor][still])
            assert bool(still.all()) or not torch.equal(weight, seen[number - 1][tensor])
