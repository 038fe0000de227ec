"""Learning rates by width: the factor of each tensor by a table written by hand, and steps beside a plain loop."""

import re

import numpy as np
import pytest
import torch

from pipeline.common.errors import UserError
from pipeline.data.objectives import CausalObjective
from pipeline.families import FAMILIES, graph_of, scratch_config
from pipeline.growth.initialization import initialized
from pipeline.recipe import ModelConfig, OptimizerConfig
from pipeline.training.muon import Matrix
from pipeline.training.optimizer import build_optimizer, optimizer_groups
from pipeline.training.parameter_groups import cut
from pipeline.training.width_rates import check_proportions, described, rate_factor
from tests.benchmarks.made_up import batches
from tests.benchmarks.width_rates import MODULES, Trial
from tests.data_prep.prose import made_up_texts
from tests.pipeline.training.optimizers import PlainLion, locate_whole
from tests.shards import MemoryShard

BASE, WIDTH, FFN, EXPERT = 16, 64, 160, 96
Q, F = BASE / WIDTH, BASE / FFN
"""Of the stream's channels, and of a feed-forward network's units, where each matrix goes by its own fan-in."""

# By the end of a tensor's name: its factor by mup, and by the spectral rule; 1 for all others.
TABLES = {
    "gpt2": {"c_attn.weight": (Q, Q), "attn.c_proj.weight": (Q, Q), "c_fc.weight": (Q, Q), "mlp.c_proj.weight": (Q, F)},
    "llama": {"[qkvo]_proj.weight": (Q, Q), "(gate|up)_proj.weight": (Q, Q), "down_proj.weight": (Q, F)},
    "bert": {
        "(query|key|value).weight": (Q, Q),
        "attention.output.dense.weight": (Q, Q),
        "intermediate.dense.weight": (Q, Q),
        r"layer\.\d+.output.dense.weight": (Q, F),
        "transform.dense.weight": (Q, Q),
        "pooler.dense.weight": (Q, Q),
        "seq_relationship.weight": (Q, Q),
    },
    "qwen2_moe": {
        "[qkvo]_proj.weight": (Q, Q),
        "mlp.gate.weight": (Q, Q),
        "shared_expert_gate.weight": (Q, Q),
        "(gate|up)_proj.weight": (Q, Q),
        r"experts.\d+.down_proj.weight": (Q, BASE / EXPERT),
        "shared_expert.down_proj.weight": (Q, BASE / EXPERT),
    },
}
OUTPUT = {"gpt2": "wte", "llama": "embed_tokens", "bert": "word_embeddings", "qwen2_moe": "embed_tokens"}


def config_of(family, *, tied=False, width=WIDTH, **sizes):
    given = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": FFN} | sizes
    if family in ("llama", "qwen2_moe"):
        given |= {"num_key_value_heads": 2}
    if family == "qwen2_moe":
        given |= {"num_experts": 4, "moe_intermediate_size": EXPERT, "shared_expert_intermediate_size": EXPERT}
    model = ModelConfig(family=family, hidden_size=width, tie_word_embeddings=tied, **given)
    return scratch_config(model, 32, 0, 8, pairs=family == "bert")


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", TABLES)
def test_factors_are_those_of_the_table_by_hand(family, tied):
    graph = graph_of(config_of(family, tied=tied))
    table = TABLES[family] | {f"{OUTPUT[family]}.weight" if tied else r"(lm_head|decoder)\.weight": (Q, Q)}
    met = set()
    for name, tensor in graph.tensors().items():
        ends = [end for end in table if re.search(f"(^|[._]){end}$", name)]
        # Longest first: a row of its own before that of its kind.
        expected = table[max(ends, key=len)] if ends else (1.0, 1.0)
        met.update(ends)
        for rule, factor in zip(("mup", "spectral"), expected, strict=True):
            for optimizer in ("adamw", "lion"):
                config = OptimizerConfig(name=optimizer, width_rates=rule, base_width=BASE)
                assert rate_factor(tensor, graph, config) == factor, name
            muon = OptimizerConfig(name="muon", width_rates=rule, base_width=BASE)
            by_muon = tensor.group == "layer" and len(tensor.axes) == 2
            assert rate_factor(tensor, graph, muon) == (1.0 if by_muon else factor), name
        assert rate_factor(tensor, graph, OptimizerConfig()) == 1.0
    assert met == table.keys()


def test_at_the_base_width_mup_changes_nothing_and_both_rules_scale_alike():
    graphs = {width: graph_of(config_of("gpt2", width=width, intermediate_size=4 * width)) for width in (BASE, WIDTH)}
    of = {
        (rule, width): {
            name: rate_factor(tensor, graph, OptimizerConfig(width_rates=rule, base_width=BASE))
            for name, tensor in graph.tensors().items()
        }
        for rule in ("mup", "spectral")
        for width, graph in graphs.items()
    }
    assert set(of["mup", BASE].values()) == {1.0}
    for name, small in of["spectral", BASE].items():
        assert of["spectral", WIDTH][name] / small == of["mup", WIDTH][name]


@pytest.mark.parametrize("rule", ["none", "mup", "spectral"])
@pytest.mark.parametrize("optimizer", ["adamw", "lion"])
def test_ten_steps_are_those_of_a_plain_loop_with_a_rate_for_each_tensor(rule, optimizer):
    config = config_of("llama")
    widths = {} if rule == "none" else {"width_rates": rule, "base_width": BASE}
    chosen = OptimizerConfig(name=optimizer, lr=1e-2, weight_decay=0.5, **widths)
    graph, table = graph_of(config), TABLES["llama"] | {"lm_head.weight": (Q, Q)}
    models = [FAMILIES["llama"].model_class(config).double() for _ in range(2)]
    for model in models:
        for name, rows in initialized(FAMILIES["llama"], config, 3).items():
            model.get_parameter(name).data.copy_(rows.rows(0, rows.shape[0]))
    ours, theirs = models
    stepper = build_optimizer(graph, optimizer_groups(ours, graph, cut(2, []), chosen), chosen, {})
    for group in stepper.param_groups:
        group["lr"] = chosen.lr * group["rate_ratio"]
    column = {"none": None, "mup": 0, "spectral": 1}[rule]
    each = []
    for name, parameter in theirs.named_parameters():
        factors = [pair for end, pair in table.items() if re.search(f"(^|[._]){end}$", name)]
        factor = factors[0][column] if factors and column is not None else 1.0
        # Decoupled: a step keeps 1 - lr x weight_decay of a weight, whatever its rate.
        decay = chosen.weight_decay * (parameter.dim() > 1) / factor
        each.append({"params": [parameter], "lr": chosen.lr * factor, "weight_decay": decay})
    plain = (
        PlainLion(each, chosen.betas) if optimizer == "lion" else torch.optim.AdamW(each, betas=chosen.betas, eps=chosen.eps)
    )
    ids = torch.randint(0, 32, (4, 8), generator=torch.Generator().manual_seed(1))
    for _ in range(10):
        for model, by in zip(models, (stepper, plain), strict=True):
            model.zero_grad()
            model(input_ids=ids, labels=ids).loss.backward()
            by.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        # float64, ten steps; where a gradient is all but zero Adam makes its rounding a step.
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "lion"])
def test_groups_are_split_where_rates_differ_and_nowhere_else(optimizer):
    config = config_of("gpt2")
    model, graph = FAMILIES["gpt2"].model_class(config), graph_of(config)

    def groups(**options):
        made = optimizer_groups(model, graph, cut(2, []), OptimizerConfig(name=optimizer, weight_decay=0.1, **options))
        return [{key: value for key, value in group.items() if key != "params"} for group in made]

    plain, mup = groups(), groups(width_rates="mup", base_width=BASE)
    # At the base width, and by mup wherever what decays has one rate, they are those of a run without the option.
    assert groups(width_rates="mup", base_width=WIDTH) == plain
    assert [group["names"] for group in mup] == [group["names"] for group in plain]
    for group, other in zip(mup, plain, strict=True):
        factor = group["rate_ratio"] / other["rate_ratio"]
        assert group["weight_decay"] * factor == other["weight_decay"]
    spectral = groups(width_rates="spectral", base_width=BASE)
    down = [group["names"] for group in spectral if group["rate_ratio"] == F]
    assert down == ([] if optimizer == "muon" else [[f"transformer.h.{layer}.mlp.c_proj.weight" for layer in range(2)]])
    assert len(spectral) == len(plain) + (optimizer != "muon")


def test_muons_steps_have_the_spectral_norm_of_the_rule():
    config = config_of("llama")
    chosen = OptimizerConfig(name="muon", lr=1.0, weight_decay=0.0, momentum=0.0, width_rates="spectral", base_width=BASE)
    graph, model = graph_of(config), FAMILIES["llama"].model_class(config)
    stepper = build_optimizer(graph, optimizer_groups(model, graph, cut(2, []), chosen), chosen, {})
    locate_whole(stepper, model)
    matrices = [p for group in stepper.param_groups if group["muon"] for p in group["params"]]
    before = [parameter.detach().clone() for parameter in matrices]
    for parameter in matrices:
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4))
    stepper.step()
    for parameter, old in zip(matrices, before, strict=True):
        outputs, inputs = parameter.shape
        norm = torch.linalg.matrix_norm(parameter.detach() - old, 2).item() / (outputs / inputs) ** 0.5
        # Newton and Schulz's polynomial leaves singular values within .7 and 1.2.
        assert 0.65 < norm < 1.25


def test_parts_of_one_matrix_have_each_the_scale_of_their_own_outputs():
    config = config_of("phi3", num_key_value_heads=1)
    graph = graph_of(config)
    tensor = graph.tensors()["model.layers.0.self_attn.qkv_proj.weight"]
    scales = [scale for _, scale in Matrix.of(tensor, graph.sizes, spectral=True).matrices_in(torch.zeros(96 * WIDTH))]
    assert scales == [1.0, 0.5, 0.5]
    assert [scale for _, scale in Matrix.of(tensor, graph.sizes).matrices_in(torch.zeros(96 * WIDTH))] == [1.0, 1.0, 1.0]


def test_mup_refuses_a_growth_that_changes_the_proportions_and_the_spectral_rule_takes_it():
    small = graph_of(config_of("gpt2", tied=True, width=32, intermediate_size=128))
    in_proportion = graph_of(config_of("gpt2", width=64, intermediate_size=256, num_hidden_layers=3))
    mup, spectral = (OptimizerConfig(width_rates=rule, base_width=32) for rule in ("mup", "spectral"))
    check_proportions(small, in_proportion, mup, "target.")
    # 32 units are as many as channels, which other matrices read.
    for units, times in ((256, 8), (32, 1)):
        other = graph_of(config_of("gpt2", width=32, intermediate_size=units))
        check_proportions(small, other, spectral, "target.")
        check_proportions(small, other, OptimizerConfig(), "target.")
        with pytest.raises(UserError, match=rf"^target: .*mlp\.c_proj\.weight sums {times} times hidden_size"):
            check_proportions(small, other, mup, "target.")


def test_what_a_plan_says_counts_every_parameter_once():
    graph = graph_of(config_of("gpt2"))
    said = described(graph, OptimizerConfig(width_rates="spectral", base_width=BASE))
    counts = {factor: int(count.replace(",", "")) for factor, count in re.findall(r"x (\S+) for (\S+) parameters", said)}
    layers = 2 * (4 * WIDTH * WIDTH + FFN * WIDTH) + 32 * WIDTH
    assert counts == {"1": graph.parameters - layers - 2 * FFN * WIDTH, "0.25": layers, "0.1": 2 * FFN * WIDTH}


def test_the_two_keys_go_together():
    for given in ({"width_rates": "mup"}, {"base_width": 64}):
        with pytest.raises(ValueError, match="go together"):
            OptimizerConfig(**given)


def test_by_mup_steps_move_a_wide_model_as_far_as_a_narrow_one():
    text = np.frombuffer("".join(made_up_texts(80)).encode(), np.uint8).astype(np.int64)
    data = (batches([MemoryShard(text)], CausalObjective(64)),) * 2

    def moved(width, **widths):
        chosen = OptimizerConfig(lr=4e-3, betas=(0.9, 0.95), **widths)
        moves = Trial(width, chosen, {"tie_word_embeddings": False}).moves(*data, 10)
        return dict(zip(MODULES, moves, strict=True))

    narrow, wide, by_mup = moved(32), moved(128), moved(128, width_rates="mup", base_width=32)
    # Four times as wide. What writes the stream last shows it most.
    assert wide["FFN 1"] > 5 * narrow["FFN 1"] and wide["logits"] > 1.5 * narrow["logits"]
    assert 0.4 < by_mup["FFN 1"] / narrow["FFN 1"] < 2.5 and 0.7 < by_mup["logits"] / narrow["logits"] < 1.5
