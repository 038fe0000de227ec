"""Which elements a growth added: each of the source's has one place in the target, and all others are new."""

import pytest
import torch

from pipeline.growth.added_steps import ADDED_STEPS_LEFT
from pipeline.growth.certificate import expectations
from pipeline.growth.optimizer_growth import begin_optimizer
from pipeline.growth.state import Constant
from tests.pipeline.growth import check
from tests.pipeline.growth.models import FAMILY_NAMES, OTHERS, plan_of, small_model
from tests.pipeline.growth.test_upcycling import MIXTRAL, NOISE, PARTS, QWEN2, QWEN3

STEPS = 7
ADDED = {"added": {"warmup_steps": STEPS}}


def left(plan, before=None) -> dict[str, torch.Tensor]:
    """Return what is left of each of the target's tensors, whole."""
    state = begin_optimizer(plan, before) or {}
    found = {}
    for name, tensor in plan.tensors.items():
        value = state.get(name, {}).get(ADDED_STEPS_LEFT, 0.0)
        shape = tensor.shape(plan.graph.sizes)
        found[name] = torch.full(shape, value) if isinstance(value, float) else value.rows(0, shape[0])
    return {name: value for name, value in found.items() if not plan.tensors[name].buffer}


GROWTHS = {
    "width": ({"hidden_size": 48}, {"width": "auto"}),
    "fpi": ({"hidden_size": 64, "intermediate_size": 160}, {"width": "fpi"}),
    "random map": ({"hidden_size": 64}, {"width": "fpi", "map": "random"}),
    "aki": ({"hidden_size": 48}, {"width": "aki"}),
    "nai": ({"hidden_size": 48}, {"width": "nai", "noise": 0.02}),
    "zeros": ({"hidden_size": 48}, {"width": "zero_pad", "noise": 0.02}),
    "stack": ({"num_hidden_layers": 6}, {"depth": "stack"}),
    "interleave": ({"num_hidden_layers": 5}, {"depth": "interleave"}),
    "random": ({"num_hidden_layers": 5}, {"depth": "random"}),
    "average": ({"num_hidden_layers": 4}, {"depth": "list", "layers": [0, {0: 0.5, 1: 0.5}, 1, 2]}),
    "both": ({"hidden_size": 48, "num_hidden_layers": 5, "vocab_size": 57, "max_position_embeddings": 20}, {}),
}


@pytest.mark.parametrize("growth", GROWTHS)
@pytest.mark.parametrize("family", [*FAMILY_NAMES, *OTHERS])
def test_as_many_elements_are_new_as_the_target_has_more(family, growth):
    if family == "modernbert" and growth == "average":
        pytest.skip("the first two layers of a ModernBERT differ in their norms, and have no average")
    sizes, options = GROWTHS[growth]
    model = small_model(family)
    if growth == "both" and family == "roberta":
        sizes = sizes | {"max_position_embeddings": 22}
    plan, _ = plan_of(model, sizes, options | ADDED)
    found = left(plan)
    new = sum(int((value == STEPS).sum()) for value in found.values())
    assert all(bool(((value == 0) | (value == STEPS)).all()) for value in found.values())
    assert new == plan.graph.parameters - plan.source_graph.parameters


def test_what_is_new_of_gpt2_stands_where_the_source_has_no_row_no_column_and_no_layer():
    sizes = {"hidden_size": 48, "num_hidden_layers": 4, "vocab_size": 57}
    found = left(plan_of(small_model("gpt2"), sizes, ADDED | {"depth": "stack"})[0])
    rows = found["transformer.wte.weight"]
    assert bool((rows[50:] == STEPS).all() and (rows[:, 32:] == STEPS).all()) and not rows[:50, :32].any()
    # Queries, keys and values stand side by side.
    fused = found["transformer.h.2.attn.c_attn.weight"].view(48, 3, 48)
    assert not fused[:32, :, :32].any() and bool((fused[32:] == STEPS).all() and (fused[:, :, 32:] == STEPS).all())
    assert not found["transformer.h.0.ln_1.weight"][:32].any()
    assert all(bool((value == STEPS).all()) for name, value in found.items() if ".h.3." in name)


@pytest.mark.parametrize(
    ("name", "sizes", "growth"),
    [
        ("llama", MIXTRAL, NOISE),
        ("mistral", MIXTRAL | {"hidden_size": 96, "num_hidden_layers": 3}, {"depth": "interleave"}),
        ("qwen2", QWEN2 | PARTS | {"shared_expert_intermediate_size": 20}, {"shared_expert": "ffn"}),
        ("qwen2", QWEN2 | {"moe_intermediate_size": 100}, {}),
        ("qwen3", QWEN3 | PARTS, {}),
        ("mixtral", {"num_experts": 8, "num_experts_per_tok": 4}, {}),
        ("mixtral", {"num_experts": 8, "num_experts_per_tok": 4, "intermediate_size": 50}, {}),
    ],
)
def test_of_mixtures_the_first_copy_of_a_network_or_expert_is_the_sources_own(name, sizes, growth):
    plan, _ = check.planned(name, sizes, growth | ADDED)
    found = left(plan)
    new = sum(int((value == STEPS).sum()) for value in found.values())
    assert new == plan.graph.parameters - plan.stored_graph.parameters
    routers = [value for name, value in found.items() if plan.tensors[name].mixture == "router"]
    assert all(bool((value == STEPS).any()) for value in routers)


def test_units_of_the_first_copy_that_are_drawn_anew_are_new():
    drawn = left(check.planned("llama", MIXTRAL, ADDED | {"drop_upcycling": 0.5})[0])
    for name, value in left(check.planned("llama", MIXTRAL, ADDED)[0]).items():
        if "experts.0." in name:
            assert not value.any() and (drawn[name] == STEPS).double().mean() == 0.5
        else:
            assert torch.equal(value, drawn[name])


def test_what_the_source_had_not_finished_goes_on_and_nothing_is_said_where_nothing_is_asked_for():
    model = small_model("gpt2")
    name = "transformer.wte.weight"
    rows = Constant((50, 32), 3.0)
    kept = {name: {ADDED_STEPS_LEFT: rows}, "transformer.h.0.ln_1.weight": {ADDED_STEPS_LEFT: 2.0}}
    plan, _ = plan_of(model, {"hidden_size": 48}, ADDED)
    found = left(plan, kept)
    assert bool((found[name][:, :32] == 3).all() and (found[name][:, 32:] == STEPS).all())
    assert found["transformer.h.0.ln_1.weight"][:32].unique().tolist() == [2.0]
    assert begin_optimizer(plan_of(model, {"hidden_size": 48}, {})[0], kept) is None


def test_a_plan_says_what_becomes_of_the_rate_and_where_a_growth_adds_nothing():
    model = small_model("gpt2")
    slowly = {"added": {"warmup_steps": 100, "lr_ratio": 0.5, "decay_steps": 1000}}
    said = (
        "the rate of what is added climbs to 0.5 times the common one over 100 steps and comes to the common one over 1,000 "
        "steps"
    )
    assert said in expectations(plan_of(model, {"num_hidden_layers": 4}, slowly)[0])
    assert any("this growth adds nothing" in line for line in expectations(plan_of(model, {}, slowly)[0]))
    assert not any("rate of what" in line for line in expectations(plan_of(model, {"num_hidden_layers": 4}, {})[0]))
