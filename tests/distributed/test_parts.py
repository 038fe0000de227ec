"""Parts of parameters that learn by themselves, rows of new tokens and experts: two DeepSpeed ranks against a plain loop."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call

from pipeline.deepspeed.loss_scale import restore_counters_and_scale
from pipeline.families import FAMILIES, ActiveLayers, graph_of, has_key, scratch_config
from pipeline.growth.fused_parameters import parameters_of
from pipeline.growth.initialization import initialized
from pipeline.recipe import CheckpointingConfig, ModelConfig, OptimizerConfig, TrainStage
from pipeline.training.directory.checkpoints import Checkpoints, TrainState
from pipeline.training.parameter_groups import ParameterGroup, active_layers_of, cut
from tests.distributed.engines import SEED, built, drawn_batches, full_weight, train_step
from tests.distributed.test_freezing import BATCH, LENGTH, OPTIMIZER, VOCAB, ds_config, model_config
from tests.pipeline.growth import check
from tests.ranks import run_ranks

OWN_RATE, OWN_DECAY = 9e-3, 0.0
"""Of the parts that have a rate and a decay of their own in some steps."""


class NewRows:
    """The rows of new tokens in a model's tables of words."""

    steps = (
        (None, False),
        (["new_tokens"], False),
        (["new_tokens"], True),
        (["new_tokens", "layers.1"], False),
        (None, True),
        (None, False),
    )
    """What learns, None being the whole model, and whether the parts have a rate and a decay of their own."""
    goes_on = 2

    def __init__(self, family: str) -> None:
        self.new = torch.tensor([3, 17, 18, VOCAB - 1])
        self.old = torch.tensor([row for row in range(VOCAB) if row not in self.new])
        self.config = model_config(family, family == "gpt2")
        self.options = {"new_tokens": self.new}
        self.tables = {"gpt2": ["transformer.wte.weight"], "llama": ["model.embed_tokens.weight", "lm_head.weight"]}[family]

    def parts(self, name: str, rows: int) -> dict[str, torch.Tensor]:
        """The rows of each part of a parameter."""
        return {f"{name} old": self.old, f"{name} new": self.new} if name in self.tables else {name: torch.arange(rows)}

    def learns(self, part: str, chosen: list[str]) -> bool:
        return part.endswith(" new") or ("layers.1" in chosen and (".h.1." in part or ".layers.1." in part))

    def has_own(self, part: str) -> bool:
        return part.endswith(" new")

    def has_own_group(self, group: ParameterGroup) -> bool:
        return group.holds is not None


class Experts:
    """Routers and experts of mixtures."""

    steps = (
        (None, False),
        (["router"], False),
        (["experts.1-2"], False),
        (["experts.1-2", "layers.1", "head"], True),
        (["experts", "router"], True),
        (None, True),
        (None, False),
    )
    goes_on = 4

    def __init__(self, family: str) -> None:
        self.options = {}
        sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_experts": 4, "tie_word_embeddings": False}
        if has_key(FAMILIES[family].config_class, "kv_lora_rank"):
            others = {"vocab_size": VOCAB, "max_position_embeddings": LENGTH, "pad_token_id": None}
            self.config = check.small_config(FAMILIES[family], **sizes, **others)
        else:
            described = ModelConfig(family=family, num_attention_heads=4, intermediate_size=48, **sizes)
            self.config = scratch_config(described, VOCAB, 0, LENGTH)

    def parts(self, name: str, rows: int) -> dict[str, torch.Tensor]:
        """The rows of each part of a parameter: each expert's."""
        if ".experts." not in name:
            return {name: torch.arange(rows)}
        return {f"{name} {number}": torch.tensor([number]) for number in range(rows)}

    def learns(self, part: str, chosen: list[str]) -> bool:
        number = part.partition(" ")[2]
        words = {
            "router": ".gate." in part or "shared_expert_gate" in part,
            "experts": bool(number) or ".shared_expert" in part,
            "experts.1-2": number in ("1", "2"),
            "layers.1": ".layers.1." in part,
            "head": part.startswith(("lm_head.", "model.norm.")),
        }
        return any(words[selector] for selector in chosen)

    def has_own(self, part: str) -> bool:
        return part.endswith((" 1", " 2"))

    def has_own_group(self, group: ParameterGroup) -> bool:
        return group.experts == range(1, 3)


Kind = type[NewRows] | type[Experts]
Walk = tuple[list[float], list[dict[str, torch.Tensor]]]
"""Each step's loss, and the parameters after it."""


def schedule(kind: Kind) -> Iterator[tuple[list[str] | None, bool, torch.Tensor, torch.Tensor]]:
    for (chosen, own), batch in zip(kind.steps, drawn_batches(11, len(kind.steps), BATCH, LENGTH, VOCAB), strict=True):
        yield chosen, own, *batch


def plain_loop(kind: Kind, family: str) -> Walk:
    """Train the stock class, of whose parameters each part is one."""
    case = kind(family)
    model, graph = FAMILIES[family].model_class(case.config), graph_of(case.config)
    parts: dict[str, dict[str, torch.Tensor]] = {}
    own: dict[str, nn.Parameter] = {}
    for name, tensor in parameters_of(graph, initialized(FAMILIES[family], case.config, SEED)).items():
        parts[name] = case.parts(name, tensor.shape[0])
        own |= {part: nn.Parameter(tensor.rows(0, tensor.shape[0])[rows]) for part, rows in parts[name].items()}

    def joined() -> dict[str, torch.Tensor]:
        whole = {}
        for name, rows_of in parts.items():
            order = torch.cat(list(rows_of.values())).argsort()
            whole[name] = torch.cat([own[part] for part in rows_of])[order]
        return whole

    groups = [{"params": [part], "name": name} for name, part in own.items()]
    optimizer = torch.optim.AdamW(groups, lr=OPTIMIZER.lr, betas=OPTIMIZER.betas, eps=OPTIMIZER.eps)
    losses, seen = [], []
    for chosen, own_rates, inputs, labels in schedule(kind):
        logits = functional_call(model, joined(), (inputs,)).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            name, (part,) = group["name"], group["params"]
            if chosen is not None and not case.learns(name, chosen):
                part.grad = None
            rated = own_rates and case.has_own(name)
            group["lr"] = OWN_RATE if rated else OPTIMIZER.lr
            group["weight_decay"] = OWN_DECAY if rated else OPTIMIZER.weight_decay * (part.dim() > 1)
        torch.nn.utils.clip_grad_norm_(own.values(), OPTIMIZER.gradient_clipping)
        optimizer.step()
        losses.append(loss.item())
        seen.append({name: value.detach().clone() for name, value in joined().items()})
    return losses, seen


def deepspeed_loop(kind: Kind, family: str, stage: int, config: OptimizerConfig, folder: Path | None = None) -> Walk:
    """Train an engine; with a `folder` go through a checkpoint there at `goes_on`."""
    case = kind(family)
    layers, mixtures = case.config.num_hidden_layers, graph_of(case.config).mixtures
    groups = cut(layers, [TrainStage(name="s", steps=1, trainable=chosen) for chosen, _ in kind.steps if chosen], mixtures)
    settings = case.config, ds_config(stage, 1), config, groups
    trained = built(*settings, **case.options)
    losses, seen = [], []
    for number, (chosen, own, inputs, labels) in enumerate(schedule(kind)):
        if number == kind.goes_on and folder is not None:
            checkpoints, saved = Checkpoints(folder, CheckpointingConfig()), TrainState(1, number)
            checkpoints.save(trained, saved, must=True)
            trained.close()
            trained = built(*settings, checkpoints.open(saved), **case.options)
            restore_counters_and_scale(trained.engine, saved.counters, saved.loss_scale)
        rated = {group for group in trained.parameter_groups if own and case.has_own_group(group)}
        trained.set_rates(lambda group, rated=rated: OWN_RATE if group in rated else config.lr)
        trained.set_decays(lambda group, rated=rated: OWN_DECAY if group in rated else config.weight_decay)
        whole = ActiveLayers.whole(layers)
        active = whole if chosen is None else active_layers_of(chosen, layers, "", mixtures)
        losses.append(train_step(trained, inputs, labels, active))
        # What stands still is not gathered.
        trained.learn(whole)
        seen.append({name: full_weight(parameter).clone() for name, parameter in trained.module.named_parameters()})
    trained.close()
    return losses, seen


def loops(kind: Kind, family: str, stages: list[int], config: OptimizerConfig, folder: Path | None = None) -> list[Walk]:
    """Train under each stage, and with a `folder` under the last one through a checkpoint too."""
    again = [] if folder is None else [(stages[-1], folder)]
    return [deepspeed_loop(kind, family, stage, config, place) for stage, place in [*((each, None) for each in stages), *again]]


def check_still(kind: Kind, family: str, seen: list[dict[str, torch.Tensor]]) -> None:
    """Hold what learns and nothing else to have moved in each step."""
    case = kind(family)
    for (chosen, _), before, weights in zip(kind.steps[1:], seen, seen[1:], strict=False):
        for name, weight in weights.items():
            for part, rows in case.parts(name, len(weight)).items():
                learns = chosen is None or case.learns(part, chosen)
                assert torch.equal(weight[rows], before[name][rows]) != learns, (part, chosen)


FULL = pytest.mark.full


@pytest.mark.parametrize(
    ("kind", "family", "stages"),
    [
        (NewRows, "gpt2", [0, 3]),
        (NewRows, "llama", [1, 2]),
        (Experts, "qwen2_moe", [3]),
        pytest.param(Experts, "mixtral", [0, 1, 2], marks=FULL),
        pytest.param(Experts, "deepseek_v3", [3], marks=FULL),
    ],
)
def test_parts_learn_as_in_a_plain_loop_and_nothing_else_moves_and_a_run_goes_on_to_the_bit(tmp_path, kind, family, stages):
    losses, expected = plain_loop(kind, family)
    ways, others = run_ranks(loops, 2, kind, family, stages, OPTIMIZER, tmp_path if stages[-1] == 3 else None)
    if stages[-1] == 3:
        (whole, weights), (gone_on, weights_after) = ways[-2:]
        assert whole == gone_on
        assert all(torch.equal(weights[-1][name], weight) for name, weight in weights_after[-1].items())
    for (theirs, seen), (_, on_another) in zip(ways, others, strict=True):
        # fp32 sums in another order, magnified by Adam's division where a gradient is near 0; a row that moves by one step of
        # its momentum or decay moves by 1e-3 or 1e-4.
        assert max(abs(one - other) for one, other in zip(losses, theirs, strict=True)) < 2e-6
        for found, another, plain in zip(seen, on_another, expected, strict=True):
            assert all(torch.equal(found[name], another[name]) for name in found)
            assert max((weight - plain[name]).abs().max().item() for name, weight in found.items()) < 2e-5
        check_still(kind, family, seen)


@pytest.mark.full
@pytest.mark.parametrize(("kind", "family", "stages"), [(NewRows, "llama", [3]), (Experts, "qwen2_moe", [0, 3])])
@pytest.mark.parametrize("name", ["lion", "muon"])
def test_other_optimizers_keep_still_what_is_not_chosen(kind, family, stages, name):
    config = OptimizerConfig(name=name, lr=3e-3, weight_decay=0.1, gradient_clipping=0.5)
    for _, seen in run_ranks(loops, 2, kind, family, stages, config)[0]:
        check_still(kind, family, seen)
