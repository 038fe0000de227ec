"""Dense models read as mixtures, and experts cut into parts: their options, and Adam's state, against the stock classes."""

import itertools
from dataclasses import replace

import pytest
import torch

from pipeline.common.errors import UserError
from pipeline.families import FAMILIES
from pipeline.growth.description import describe
from pipeline.growth.duplicates import predict_duplicates
from pipeline.growth.float64_casts import Float64Casts
from pipeline.growth.fused_parameters import stored_of
from pipeline.growth.gates import Gates, Share
from pipeline.growth.huggingface import MappedTensor
from pipeline.growth.optimizer_growth import going_on_from, grow_optimizer
from pipeline.growth.reasons import predict
from pipeline.growth.state import Source
from pipeline.growth.step_predictions import predict_moments, predict_steps
from tests.pipeline.families.grown import gradients
from tests.pipeline.growth import check
from tests.pipeline.growth.models import whole

FOUR = {"num_experts": 4, "num_experts_per_tok": 2}
MIXTRAL = {"model_type": "mixtral"} | FOUR
QWEN2 = {"model_type": "qwen2_moe"} | FOUR
QWEN3 = {"model_type": "qwen3_moe"} | FOUR
PARTS = {"num_experts": 8, "num_experts_per_tok": 4, "moe_intermediate_size": 50}
NOISE = {"symmetry": "paired", "noise": 0.25}


def tokens(seed=2):
    return torch.randint(4, 61, (2, 24), generator=torch.Generator().manual_seed(seed))


def opened(model, optimizer=None):
    """The model as a source, its optimizer's state too."""
    family = FAMILIES[model.config.model_type]
    held = {name: MappedTensor(parameter.data) for name, parameter in model.named_parameters()}
    return Source(None, model.config, family, stored_of(family.graph(model.config), held), optimizer)


EXACT = [
    ("llama", MIXTRAL, {"router_init": "zero"}),
    ("llama", MIXTRAL, {"router_std": 0.5}),
    ("llama", MIXTRAL, NOISE),
    ("llama", MIXTRAL | {"num_experts_per_tok": 1}, {}),
    ("mistral", MIXTRAL | {"intermediate_size": 50}, {}),
    ("llama", MIXTRAL | {"intermediate_size": 130}, {}),
    ("qwen3", QWEN3 | PARTS, NOISE),
    ("qwen3", QWEN3 | {"norm_topk_prob": False, "num_experts_per_tok": 4}, {}),
    ("qwen3", QWEN3 | {"norm_topk_prob": False}, {"router_init": "zero"}),
    ("qwen3", QWEN3 | {"mlp_only_layers": [0, 2], "hidden_size": 128, "intermediate_size": 230}, {}),
    ("qwen2", QWEN2 | PARTS | {"decoder_sparse_step": 2}, {}),
    ("qwen2", QWEN2 | {"shared_expert_intermediate_size": 40}, {"shared_expert": "ffn"}),
    (
        "qwen2",
        QWEN2 | {"num_experts": 8, "num_experts_per_tok": 4, "shared_expert_intermediate_size": 40}
        | {"moe_intermediate_size": 32, "hidden_size": 128},
        {"shared_expert": "ffn"} | NOISE,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "sizes", "growth"), EXACT)
def test_a_mixture_is_exact_by_options_that_keep_the_function(name, sizes, growth):
    plan, model = check.planned(name, sizes, growth)
    difference, _ = check.moved(plan, model)
    assert predict(plan) == [] and difference < 1e-12, difference


def test_gates_that_are_not_renormalized_are_nearly_exact_where_the_router_is_nearly_zero():
    """Down times E / k: without it logits would be off by half."""
    plan, model = check.planned("qwen3", QWEN3 | {"norm_topk_prob": False}, {"router_std": 1e-8})
    assert check.moved(plan, model)[0] < 1e-5


@pytest.mark.parametrize(
    ("sizes", "growth"),
    [({}, NOISE), ({}, {"drop_upcycling": 0.25}), ({"intermediate_size": 130}, {"router_init": "zero"}), ({}, {})],
)
def test_experts_differ_by_what_is_to_make_them_unlike(sizes, growth):
    plan, model = check.planned("llama", MIXTRAL | sizes, growth)
    _, after = check.moved(plan, model)
    held = after.model.layers[0].mlp.experts
    alike = torch.equal(held.gate_up_proj[0], held.gate_up_proj[1]) and torch.equal(held.down_proj[0], held.down_proj[1])
    assert alike is (growth == {}) and predict_duplicates(plan) == []
    if sizes:
        assert not held.down_proj[:, :, 100:].any() and held.gate_up_proj[:, 100:130].std(dim=0).min() > 0
        assert any("new units of experts are drawn" in choice for choice in plan.choices)


def test_a_router_of_zero_alone_leaves_experts_alike():
    assert predict_duplicates(check.planned("llama", MIXTRAL, {"router_init": "zero"})[0]) == ["experts"]


def test_dropped_units_are_drawn_from_the_tensor_and_the_others_stay():
    plan, model = check.planned("llama", MIXTRAL | {"intermediate_size": 400}, {"drop_upcycling": 0.3}, intermediate_size=400)
    state = {name: whole(tensor) for name, tensor in plan.grow(opened(model).state, torch.float64).items()}
    inside, dropped = "model.layers.0.", []
    for expert in range(4):
        names = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
        changed = []
        for own, dense in names.items():
            now = state[f"{inside}block_sparse_moe.experts.{expert}.{own}.weight"]
            before = model.get_parameter(f"{inside}mlp.{dense}.weight").data
            axis = 1 if own == "w2" else 0
            same = (now == before).all(dim=1 - axis)
            changed.append(~same)
            drawn = now[~same] if axis == 0 else now[:, ~same]
            assert drawn.mean().item() == pytest.approx(before.mean().item(), abs=0.01)
            assert drawn.std().item() == pytest.approx(before.std().item(), rel=0.03)
        assert torch.equal(changed[0], changed[1]) and torch.equal(changed[0], changed[2]) and changed[0].sum() == 120
        dropped.append(changed[0])
    assert not torch.equal(dropped[0], dropped[1])


# --- Adam's state ---------------------------------------------------------------------------------


def adam_of(model):
    """A state whose exp_avg and exp_avg_sq are the gradients and their squares."""
    return {
        name: {"exp_avg": MappedTensor(value), "exp_avg_sq": MappedTensor(value**2), "step": 7.0}
        for name, value in gradients(model).items()
    }


def test_an_expert_that_no_token_chose_starts_without_a_state():
    """Of exp_avg_sq = 0 and a count of steps that goes on, a first update would be some times the rate."""
    plan, model = check.planned("llama", MIXTRAL, {"optimizer_state": "grow"})
    shares = [Share(0.5, 0.25), Share(0.0, 0.0), Share(0.25, 0.1), Share(0.25, 0.1)]
    upcycling = replace(plan.form, measured=Gates(10, [shares] * 3))
    kept = upcycling.optimizer(adam_of(model))
    names = [name for name in plan.graph.tensors() if ".experts." in name]
    assert {name for name in names if name not in kept} == {name for name in names if ".experts.1." in name}


@pytest.mark.parametrize(
    ("name", "sizes", "growth"),
    [
        ("llama", MIXTRAL, {}),
        ("qwen3", QWEN3 | PARTS, {}),
        ("qwen3", QWEN3 | PARTS | {"norm_topk_prob": False, "num_experts_per_tok": 8}, {}),
        (
            "qwen2",
            QWEN2 | PARTS | {"shared_expert_intermediate_size": 20, "moe_intermediate_size": 40},
            {"shared_expert": "ffn"},
        ),
        ("mixtral", {"intermediate_size": 50}, {}),
    ],
)
def test_gradients_of_experts_sum_to_those_of_the_network_that_they_are_made_of(name, sizes, growth):
    """Of a = W' / W, the sum over copies is 1 / a of the source's."""
    plan, model = check.planned(name, sizes, growth)
    before = gradients(model)
    after = check.grown_model(plan, model)
    now = gradients(after)
    checked = 0
    for tensor, part in plan.form.slices.items():
        same = [
            other for other, its in plan.form.slices.items()
            if (its.tensor, its.rows, its.columns) == (part.tensor, part.rows, part.columns)
        ]  # fmt: skip
        summed = sum(now[other] * part.factor for other in same)
        wanted = before[part.tensor][part.rows, part.columns]
        torch.testing.assert_close(summed, wanted, rtol=0, atol=1e-12)
        assert wanted.abs().max() > 1e-6, tensor
        checked += 1
    assert checked >= 3 * 3 * sizes.get("num_experts", 8)
    for name in before.keys() & now.keys() - plan.form.slices.keys():
        if "gate.weight" not in name:
            torch.testing.assert_close(now[name], before[name], rtol=0, atol=1e-12)


EQUAL_GATES = [
    ("llama", MIXTRAL | {"num_experts_per_tok": 4}, {"router_init": "zero"}),
    ("qwen3", QWEN3 | PARTS | {"num_experts_per_tok": 8}, {"router_init": "zero"}),
    (
        "qwen2",
        QWEN2 | {"num_experts_per_tok": 4, "shared_expert_intermediate_size": 40},
        {"shared_expert": "ffn", "router_init": "zero"},
    ),
    ("mixtral", {"intermediate_size": 50}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "sizes", "growth"), EQUAL_GATES)
def test_moments_are_those_of_the_experts_own_gradients_where_gates_are_equal(name, sizes, growth):
    plan, model = check.planned(name, sizes, growth | {"optimizer_state": "grow"})
    assert predict_moments(plan) == [] and not plan.takes_gates
    kept = grow_optimizer(plan, adam_of(model))
    now = gradients(check.grown_model(plan, model))
    checked = 0
    for tensor in plan.tensors:
        entry = kept[tensor]
        if not tensor.endswith(("gate.weight", "shared_expert_gate.weight")):
            torch.testing.assert_close(whole(entry["exp_avg"]).double(), now[tensor], rtol=2e-6, atol=1e-9)
            torch.testing.assert_close(whole(entry["exp_avg_sq"]).double(), now[tensor] ** 2, rtol=2e-6, atol=1e-15)
            assert entry["step"] == 7.0
            checked += 1
        else:
            assert not whole(entry["exp_avg"]).any() and not whole(entry["exp_avg_sq"]).any() and entry["step"] == 0.0
    assert checked > 3 * 12


def test_of_near_uniform_gates_v_is_over_k_e_and_m_over_e():
    """Not E^2: where k of E are chosen, the mean of the squared gate is k / E times 1 / k^2."""
    plan, model = check.planned("llama", MIXTRAL, {"optimizer_state": "grow"})
    adam = adam_of(model)
    kept = grow_optimizer(plan, adam)["model.layers.1.block_sparse_moe.experts.3.w2.weight"]
    source = adam["model.layers.1.mlp.down_proj.weight"]
    torch.testing.assert_close(whole(kept["exp_avg"]), whole(source["exp_avg"]).float() / 4)
    torch.testing.assert_close(whole(kept["exp_avg_sq"]), whole(source["exp_avg_sq"]).float() / 8)
    assert any("gates differ from token to token, and each expert has the share" in cause for cause in predict_moments(plan))
    assert any("each expert will have the share" in cause for cause in predict_moments(plan.measuring_gates()))


def test_momentum_of_muon_and_lion_has_the_share_of_the_first_moment_and_new_tensors_have_none():
    plan, model = check.planned("qwen2", QWEN2 | PARTS | {"hidden_size": 128}, {"optimizer_state": "grow"})
    adam = adam_of(model)
    muon = {
        name: {"momentum_buffer": entry["exp_avg"]} if "layers" in name and len(entry["exp_avg"].shape) > 1 else entry
        for name, entry in adam.items()
    }
    kept, as_adam = grow_optimizer(plan, muon), grow_optimizer(plan, adam)
    for name, entry in kept.items():
        if entry.keys() == {"momentum_buffer"}:
            assert torch.equal(whole(entry["momentum_buffer"]), whole(as_adam[name]["exp_avg"])), name
    inside = "model.layers.0.mlp."
    assert whole(kept[f"{inside}experts.7.down_proj.weight"]["momentum_buffer"]).any()
    assert not kept[f"{inside}gate.weight"] and not kept[f"{inside}shared_expert.up_proj.weight"]
    assert any("each slice of one network" in cause for cause in predict_steps(going_on_from(plan, muon)))
    by_lion = grow_optimizer(plan, {name: {"exp_avg": entry["exp_avg"]} for name, entry in adam.items()})
    for name, entry in by_lion.items():
        assert (not entry and not whole(as_adam[name]["exp_avg"]).any()) or (
            entry.keys() == {"exp_avg"} and torch.equal(whole(entry["exp_avg"]), whole(as_adam[name]["exp_avg"]))
        ), name
    with pytest.raises(UserError, match=r"growth\.new_moments: an expert made of a dense model's FFN has the share"):
        check.planned("qwen2", QWEN2, {"optimizer_state": "grow", "new_moments": "copied"})
    with pytest.raises(UserError, match=r"growth\.element_rates: only adamw has .* the source's is muon"):
        grow_optimizer(check.planned("qwen2", {}, {"optimizer_state": "grow", "element_rates": True})[0], muon)


def test_gates_that_are_measured_are_those_of_the_stock_router():
    plan, model = check.planned(
        "qwen3", QWEN3 | PARTS | {"mlp_only_layers": [1]}, {"optimizer_state": "grow", "router_std": 0.5}
    )
    adam = adam_of(model)
    measured = plan.with_gates(plan.form.measure(opened(model), tokens(5)))
    after = check.grown_model(plan, model)
    with torch.no_grad(), Float64Casts():
        scores = after(input_ids=tokens(5), output_router_logits=True).router_logits
    assert plan.takes_gates and len(scores) == 2 and "48 tokens of held-out text" in measured.form.gate_shares
    for layer, logits in zip((0, 2), scores, strict=True):
        gates, chosen = logits.double().softmax(-1).topk(4, dim=-1)
        gates = torch.zeros(48, 8, dtype=torch.float64).scatter_(1, chosen, gates / gates.sum(-1, keepdim=True))
        kept = grow_optimizer(measured, adam)
        for expert in (0, 5):
            inside, dense = f"model.layers.{layer}.mlp.experts.{expert}.", f"model.layers.{layer}.mlp."
            units = slice(expert % 2 * 50, expert % 2 * 50 + 50)
            share, square = gates[:, expert].mean(), gates[:, expert].square().mean()
            for own, cut, scale in (("down_proj", (slice(None), units), 1.0), ("up_proj", (units, slice(None)), 2.0)):
                source = adam[f"{dense}{own}.weight"]
                entry = kept[f"{inside}{own}.weight"]
                torch.testing.assert_close(whole(entry["exp_avg"]).double(), whole(source["exp_avg"])[cut] * scale * share)
                wanted = whole(source["exp_avg_sq"])[cut] * scale**2 * square
                torch.testing.assert_close(whole(entry["exp_avg_sq"]).double(), wanted)
    record = measured.form.record()["gate_shares"]
    assert record["tokens"] == 48 and sum(record["mean"][0]) == pytest.approx(1.0) and record["mean"][1] == []


@pytest.mark.parametrize(("name", "sizes", "growth"), EQUAL_GATES[:2])
def test_ten_steps_of_adam_with_grown_moments_are_those_of_the_dense_model(name, sizes, growth):
    """All experts are chosen by equal gates, the router stands still, and element_rates gives each its own rate and eps."""
    plan, model = check.planned(name, sizes, growth | {"optimizer_state": "grow", "element_rates": True})
    family, adam = FAMILIES[name], adam_of(model)
    kept, after = grow_optimizer(plan, adam), check.grown_model(plan, model)
    untrained = check.logits(family, model, tokens(3))
    plain = {key: entry | {"lr_factor": 1.0, "eps_factor": 1.0} for key, entry in adam.items()}
    # Copied before either model is trained: what is grown is read from the source's.
    states = [
        {
            key: {each: value if isinstance(value, float) else whole(value).double().clone() for each, value in entry.items()}
            for key, entry in state.items()
        }
        for state in (plain, kept)
    ]
    for graph, one, state in zip((plan.stored_graph, plan.graph), (model, after), states, strict=True):
        for _ in range(10):
            found = gradients(one)
            stored = stored_of(graph, {key: MappedTensor(parameter.data) for key, parameter in one.named_parameters()})
            for key, gradient in found.items():
                # Parts of one FFN add unlike things, so that a router of theirs would learn.
                if not key.endswith(".gate.weight"):
                    step_adam(state[key], whole(stored[key]), gradient)
    trained = check.logits(family, model, tokens(3))
    # Moments are kept in float32.
    torch.testing.assert_close(check.logits(plan.family, after, tokens(3)), trained, rtol=0, atol=1e-5)
    assert (trained - untrained).abs().max() > 0.1


def step_adam(state, weights, gradient, rate=1e-3, eps=1e-6):
    """Adam (Kingma and Ba 2015, algorithm 1), with a rate and an eps for each element."""
    state["step"] = state["step"] + 1
    state["exp_avg"].lerp_(gradient, 0.1)
    state["exp_avg_sq"].mul_(0.99).addcmul_(gradient, gradient, value=0.01)
    first, second = state["exp_avg"] / (1 - 0.9 ** state["step"]), state["exp_avg_sq"] / (1 - 0.99 ** state["step"])
    weights.sub_(rate * state["lr_factor"] * first / (second.sqrt() + eps * state["eps_factor"]))


@pytest.mark.parametrize(
    ("name", "sizes", "growth"),
    [
        ("qwen3", QWEN3 | PARTS, NOISE | {"drop_upcycling": 0.3}),
        ("qwen2", QWEN2 | {"shared_expert_intermediate_size": 40, "hidden_size": 96}, {"shared_expert": "ffn"}),
        ("mixtral", {"intermediate_size": 25, "num_experts": 32}, NOISE),
    ],
)
def test_any_rows_of_a_mixture_and_of_its_adam_are_the_same_bits_as_in_the_whole(name, sizes, growth):
    plan, model = check.planned(name, sizes, growth | {"optimizer_state": "grow", "element_rates": True})
    state = dict(plan.grow(opened(model).state))
    kept = grow_optimizer(plan, adam_of(model))
    state |= {
        f"{name} {key}": value for name, entry in kept.items() for key, value in entry.items() if not isinstance(value, float)
    }
    for name, tensor in state.items():
        size = tensor.shape[0]
        cuts = sorted({0, size // 3, size // 2, size})
        parts = [tensor.rows(start, stop) for start, stop in itertools.pairwise(cuts)]
        assert torch.equal(torch.cat(parts), whole(tensor)), name
        assert tuple(whole(tensor).shape) == tuple(tensor.shape), name


# --- experts cut into parts -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sizes", "experts"),
    [
        ("mixtral", {"intermediate_size": 50}, (8, 4)),
        ("olmoe", {"intermediate_size": 25}, (16, 8)),
        ("qwen2_moe", {"moe_intermediate_size": 12, "num_experts": 16, "hidden_size": 128}, (16, 8)),
        ("qwen3_moe", {"moe_intermediate_size": 8, "num_experts": 12, "num_experts_per_tok": 6}, (12, 6)),
        ("deepseek_v3", {"moe_intermediate_size": 12}, (8, 4)),
        ("deepseek_v3", {"moe_intermediate_size": 9, "num_experts": 24, "kv_lora_rank": 14}, (24, 12)),
    ],
)
@pytest.mark.parametrize("renormalized", [True, False])
def test_experts_of_fewer_units_are_parts_of_the_sources(name, sizes, experts, renormalized):
    options = {"norm_topk_prob": renormalized} if name != "mixtral" else {}
    plan, model = check.planned(name, sizes, **options)
    difference, after = check.moved(plan, model)
    assert predict(plan) == [] and difference < 1e-12, difference
    assert (plan.target.num_experts, after.config.num_experts_per_tok) == experts
    assert "each expert of the source is read as" in plan.form.remarks[0]


@pytest.mark.parametrize(
    ("name", "sizes", "growth", "says"),
    [
        ("mixtral", {"intermediate_size": 40}, {}, "the 100 units of the source's experts do not fall into 3 equal parts"),
        ("mixtral", {"intermediate_size": 51, "num_experts": 4}, {}, "target.num_experts: 4 is no multiple of 2 from 8 on"),
        ("llama", MIXTRAL | {"model_type": "deepseek_v3"}, {}, "no dense model becomes a deepseek_v3: its queries, keys and"),
        ("deepseek_v3", {"moe_intermediate_size": 12, "n_group": 3}, {}, "target.n_group: 3 is no multiple of 2 from 4 on"),
        (
            "qwen3_moe",
            {"moe_intermediate_size": 12, "num_experts_per_tok": 5},
            {},
            "num_experts_per_tok: 5 is no multiple of 2",
        ),
        ("qwen3_moe", {"norm_topk_prob": True}, {}, "target.norm_topk_prob: True is not the source's False"),
        ("qwen3", {"mlp_only_layers": [0]}, {}, "target.mlp_only_layers: [0] is not the source's None"),
        ("qwen3", QWEN3 | {"mlp_only_layers": [0, 1, 2]}, {}, "target.mlp_only_layers: leaves no layer that has experts"),
        ("qwen3", QWEN3 | {"mlp_only_layers": [3]}, {}, "target.mlp_only_layers: 3 is no layer of the model"),
        ("qwen3", QWEN3 | {"mlp_only_layers": [0], "num_hidden_layers": 5}, {}, "grow the depth in another step"),
        ("llama", MIXTRAL | {"norm_topk_prob": True}, {}, "target.norm_topk_prob: mixtral has no such key"),
        ("llama", MIXTRAL, {"shared_expert": "ffn"}, "growth.shared_expert: a mixtral has no expert that every token"),
        ("qwen2", QWEN2, {"shared_expert": "ffn"}, "target.shared_expert_intermediate_size: with growth.shared_expert: ffn"),
        ("llama", MIXTRAL, {"piece_routing": "independent"}, "growth.piece_routing: each expert is a whole FFN"),
        ("llama", MIXTRAL | {"num_experts_per_tok": 3}, NOISE, "growth.symmetry: paired has two copies of the FFN chosen"),
        ("qwen3", QWEN3 | PARTS, {"router_init": "zero"}, "growth.router_init: zero gives all experts one score"),
        ("llama", {}, {"drop_upcycling": 0.5}, "growth.drop_upcycling: is an option of a dense model that becomes a mixture"),
        ("mixtral", {"intermediate_size": 50}, {"router_init": "zero"}, "growth.router_init: is an option of a dense model"),
    ],
)
def test_what_a_mixture_cannot_be_is_refused_by_key(name, sizes, growth, says):
    with pytest.raises(UserError) as error:
        check.planned(name, sizes, growth)
    assert says in str(error.value)


def test_a_plan_says_of_what_units_an_expert_is_made():
    plan, _ = check.planned("qwen3", QWEN3 | PARTS | {"mlp_only_layers": [0]}, NOISE)
    inside = "model.layers.1.mlp."
    assert describe(plan, f"{inside}experts.3.up_proj.weight").startswith(f"{inside}up_proj.weight units 50 to 100; ")
    last = f"{inside}down_proj.weight units 50 to 100, x 2, noise of 0.25 standard deviations, +e and -e in pairs; "
    assert describe(plan, f"{inside}experts.3.down_proj.weight").startswith(last)
    assert describe(plan, f"{inside}gate.weight").startswith("new; ")
    assert describe(plan, "model.layers.0.mlp.up_proj.weight").startswith("model.layers.0.mlp.up_proj.weight; ")
