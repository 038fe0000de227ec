"""Mixtures of experts in DeepSpeed, against a plain loop over the stock class in which each expert's rows are a parameter."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call

from pipeline.deepspeed.loss_scale import restore_counters_and_scale
from pipeline.families import FAMILIES, ActiveLayers, family_of, graph_of, has_key, scratch_config
from pipeline.growth.fused_parameters import parameters_of
from pipeline.growth.initialization import initialized
from pipeline.recipe import CheckpointingConfig, ModelConfig, OptimizerConfig, TrainStage
from pipeline.training.directory.checkpoints import Checkpoints, TrainState
from pipeline.training.engine import build
from pipeline.training.parameter_groups import active_layers_of, cut
from tests.distributed.engines import full_weight, train_step
from tests.distributed.test_freezing import BATCH, LENGTH, OPTIMIZER, VOCAB, ds_config
from tests.pipeline.growth import check
from tests.ranks import run_ranks

LAYERS, EXPERTS = 3, 4
WHOLE, OWN_RATE, OWN_DECAY = None, 9e-3, 0.0
STEPS = [
    (WHOLE, False),
    (["router"], False),
    (["experts.1-2"], False),
    (["experts.1-2", "layers.1", "head"], True),
    (["experts", "router"], True),
    (WHOLE, True),
    (WHOLE, False),
]
"""What learns, and whether experts 1 and 2 have a rate and a decay of their own."""
GOES_ON = 4


def described(family: str):
    if has_key(FAMILIES[family].config_class, "kv_lora_rank"):
        sizes = {"hidden_size": 32, "vocab_size": VOCAB, "max_position_embeddings": LENGTH, "tie_word_embeddings": False}
        return check.small_config(FAMILIES[family], **sizes, num_hidden_layers=LAYERS, num_experts=EXPERTS, pad_token_id=None)
    sizes = {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 48}
    model = ModelConfig(family=family, tie_word_embeddings=False, num_experts=EXPERTS, **sizes)
    return scratch_config(model, VOCAB, 0, LENGTH)


def active(selectors: list[str] | None, config) -> ActiveLayers:
    return (
        ActiveLayers.whole(LAYERS) if selectors is None else active_layers_of(selectors, LAYERS, "", graph_of(config).mixtures)
    )


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(11)
    return [tuple(draw) for draw in torch.randint(0, VOCAB, (len(STEPS), 2, BATCH, LENGTH), generator=generator)]


def learns(name: str, selectors: list[str] | None) -> bool:
    """By the names of the class's parameters, behind whose experts' stands the expert's number."""
    number = name.partition(" ")[2]
    words = {
        "router": ".gate." in name or "shared_expert_gate" in name,
        "experts": bool(number) or ".shared_expert" in name,
        "experts.1-2": number in ("1", "2"),
        "layers.1": ".layers.1." in name,
        "head": name.startswith(("lm_head.", "model.norm.")),
    }
    return selectors is None or any(words[selector] for selector in selectors)


def plain_loop(family: str, config: OptimizerConfig) -> tuple[list[float], list[dict[str, torch.Tensor]]]:
    """Return each step's loss and the parameters behind it."""
    made = described(family)
    model = FAMILIES[family].model_class(made)
    parts: dict[str, nn.Parameter] = {}
    for name, rows in parameters_of(graph_of(made), initialized(FAMILIES[family], made, 5)).items():
        whole = rows.rows(0, rows.shape[0])
        each = {f"{name} {number}": rows for number, rows in enumerate(whole)} if whole.dim() == 3 else {name: whole}
        parts |= {part: nn.Parameter(values.clone()) for part, values in each.items()}

    def joined() -> dict[str, torch.Tensor]:
        names = dict.fromkeys(part.partition(" ")[0] for part in parts)
        return {
            name: parts[name] if name in parts else torch.stack([parts[f"{name} {number}"] for number in range(EXPERTS)])
            for name in names
        }

    optimizer = torch.optim.AdamW(
        [{"params": [part], "name": name} for name, part in parts.items()], lr=config.lr, betas=config.betas, eps=config.eps
    )
    losses, seen = [], []
    for (selectors, own), (inputs, labels) in zip(STEPS, batches(), strict=True):
        logits = functional_call(model, joined(), (inputs,)).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            name, (part,) = group["name"], group["params"]
            if not learns(name, selectors):
                part.grad = None
            rated = own and name.endswith((" 1", " 2"))
            group["lr"] = OWN_RATE if rated else config.lr
            group["weight_decay"] = OWN_DECAY if rated else config.weight_decay * (part.dim() > 1)
        torch.nn.utils.clip_grad_norm_(parts.values(), config.gradient_clipping)
        optimizer.step()
        losses.append(loss.item())
        seen.append({name: value.detach().clone() for name, value in joined().items()})
    return losses, seen


def deepspeed_loop(family: str, stage: int, config: OptimizerConfig, folder: Path | None = None):
    """Return each step's loss and the parameters behind it; with a `folder` go through a checkpoint there at GOES_ON."""
    made = described(family)
    table, mixtures = family_of(made), graph_of(made).mixtures
    groups = cut(LAYERS, [TrainStage(name="s", steps=1, trainable=chosen) for chosen, _ in STEPS if chosen], mixtures)
    settings = ds_config(stage, 1), config, groups, "sdpa"
    trained = build(table, made, initialized(table, made, 5), *settings)
    losses, seen = [], []
    for number, ((selectors, own), (inputs, labels)) in enumerate(zip(STEPS, batches(), strict=True)):
        if number == GOES_ON and folder is not None:
            checkpoints, saved = Checkpoints(folder, CheckpointingConfig()), TrainState(1, number)
            checkpoints.save(trained, saved, must=True)
            trained.close()
            source = checkpoints.open(saved)
            trained = build(table, made, source.state, *settings, source.optimizer)
            restore_counters_and_scale(trained.engine, saved.counters, saved.loss_scale)
        rated = {group for group in trained.parameter_groups if own and group.experts == range(1, 3)}
        trained.set_rates(lambda group, rated=rated: OWN_RATE if group in rated else config.lr)
        trained.set_decays(lambda group, rated=rated: OWN_DECAY if group in rated else config.weight_decay)
        losses.append(train_step(trained, inputs, labels, active(selectors, made)))
        # What stands still is not gathered.
        trained.learn(ActiveLayers.whole(LAYERS))
        seen.append({name: full_weight(parameter).clone() for name, parameter in trained.module.named_parameters()})
    trained.close()
    return losses, seen


def loops(family: str, stages: list[int], config: OptimizerConfig) -> list:
    return [deepspeed_loop(family, stage, config) for stage in stages]


def check_still(seen: list[dict[str, torch.Tensor]]) -> None:
    """Hold what learns and nothing else to have moved in each step."""
    for (selectors, _), before, weights in zip(STEPS[1:], seen, seen[1:], strict=False):
        for name, weight in weights.items():
            rows = {f"{name} {number}": number for number in range(EXPERTS)} if weight.dim() == 3 else {name: slice(None)}
            for part, which in rows.items():
                assert torch.equal(weight[which], before[name][which]) != learns(part, selectors), (part, selectors)


@pytest.mark.parametrize(
    ("family", "stages"),
    [
        ("qwen2_moe", [3]),
        pytest.param("mixtral", [0, 1, 2], marks=pytest.mark.full),
        pytest.param("deepseek_v3", [3], marks=pytest.mark.full),
    ],
)
def test_mixtures_and_the_experts_that_are_chosen_learn_as_in_a_plain_loop(family, stages):
    losses, expected = plain_loop(family, OPTIMIZER)
    (ranks, others) = run_ranks(loops, 2, family, stages, OPTIMIZER)
    for (theirs, seen), (_, on_another) in zip(ranks, others, strict=True):
        # fp32 sums in another order, magnified by Adam's division where a gradient is near 0; a row that moves by one step of
        # its momentum or decay moves by 1e-3 or 1e-4.
        assert max(abs(one - other) for one, other in zip(losses, theirs, strict=True)) < 2e-6
        for found, another, plain in zip(seen, on_another, expected, strict=True):
            assert all(torch.equal(found[name], another[name]) for name in found)
            assert max((weight - plain[name]).abs().max().item() for name, weight in found.items()) < 2e-5
        check_still(seen)


def loops_through_a_checkpoint(folder: Path) -> list:
    return [deepspeed_loop("qwen2_moe", 3, OPTIMIZER, place) for place in (None, folder)]


@pytest.mark.full
def test_a_mixture_goes_on_between_steps_of_some_experts_to_the_bit(tmp_path):
    (whole, gone_on) = run_ranks(loops_through_a_checkpoint, 2, tmp_path)[0]
    assert whole[0] == gone_on[0]
    assert all(torch.equal(whole[1][-1][name], weight) for name, weight in gone_on[1][-1].items())


@pytest.mark.full
@pytest.mark.parametrize("name", ["lion", "muon"])
def test_other_optimizers_keep_still_the_experts_that_are_not_chosen(name):
    config = OptimizerConfig(name=name, lr=3e-3, weight_decay=0.1, gradient_clipping=0.5)
    for _, seen in run_ranks(loops, 2, "qwen2_moe", [0, 3], config)[0]:
        check_still(seen)
