"""What Lion and Muon keep, grown with the weights."""

import pytest
import torch

from data_prep.errors import UserError
from pipeline.growth.huggingface import MappedTensor
from pipeline.growth.moments import steps_as_matrix
from pipeline.growth.plan import GrowthPlan
from tests.pipeline.growth.models import plan_of, small_model, state_of

GROW = {"optimizer_state": "grow"}
AGE = 7.0


def whole(value):
    return value if isinstance(value, float) else value.rows(0, value.shape[0])


def kept_by(optimizer, model, *, aged=True):
    """Return an optimizer's state of a model: random moments, all at one age where they have one."""
    plan: GrowthPlan = plan_of(model, {}, {})[0]
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, rows in state_of(model).items():
        first, second = (MappedTensor(torch.rand(rows.shape, generator=generator)) for _ in range(2))
        by_matrix = optimizer == "muon" and steps_as_matrix(plan.source_tensors[name])
        if by_matrix:
            state[name] = {"momentum_buffer": first}
        elif optimizer == "lion":
            state[name] = {"exp_avg": first}
        else:
            state[name] = {"exp_avg": first, "exp_avg_sq": second}
        if aged or "exp_avg_sq" in state[name]:
            state[name]["step"] = AGE
    return state


GROWTHS = {
    "copies": ({"hidden_size": 64}, {"width": "fpi"}),
    "uneven copies": ({"hidden_size": 48, "intermediate_size": 100}, {"width": "fpi"}),
    "rows of the next layer": ({"hidden_size": 64}, {"width": "aki"}),
    "new units that write nothing": ({"hidden_size": 40}, {"width": "exact_aki"}),
    "layers": ({"num_hidden_layers": 5}, {"depth": "stack"}),
}


@pytest.mark.parametrize("aged", [True, False])
@pytest.mark.parametrize("growth", GROWTHS)
@pytest.mark.parametrize("optimizer", ["lion", "muon"])
def test_a_momentum_grows_as_adams_first_moment_and_its_age_as_adams(optimizer, growth, aged):
    """Both are means of gradients, and gradients are what they are whatever keeps them."""
    model = small_model("gpt2")
    target, options = GROWTHS[growth]
    plan = plan_of(model, target, options | GROW)[0]
    source, as_adam = kept_by(optimizer, model, aged=aged), kept_by("adamw", model)
    grown, expected = plan.grow_optimizer(source), plan.grow_optimizer(as_adam)
    assert grown.keys() == expected.keys()
    for name, kept in grown.items():
        if not kept:
            # An added layer: nothing is said, which is zero at age 0.
            assert expected[name]["step"] == 0.0 and not whole(expected[name]["exp_avg"]).any()
            continue
        first = "momentum_buffer" if "momentum_buffer" in kept else "exp_avg"
        assert (first == "momentum_buffer") == (optimizer == "muon" and steps_as_matrix(plan.tensors[name]))
        assert torch.equal(whole(kept[first]), whole(expected[name]["exp_avg"])), name
        assert ("step" in kept) == (aged or "exp_avg_sq" in kept)
        if "step" in kept:
            assert torch.equal(torch.as_tensor(whole(kept["step"])), torch.as_tensor(whole(expected[name]["step"]))), name


@pytest.mark.parametrize("source", ["adamw", "lion", "muon"])
@pytest.mark.parametrize("target", ["adamw", "lion", "muon"])
def test_one_optimizer_does_not_go_on_from_what_another_kept(source, target):
    model = small_model("gpt2")
    plan = plan_of(model, {"hidden_size": 64}, GROW, optimizer=target)[0]
    if source == target:
        assert plan.grow_optimizer(kept_by(source, model))
        return
    with pytest.raises(UserError, match=rf"optimizer\.name: {target} does not go on .* which is {source}; name {source}, or"):
        plan.grow_optimizer(kept_by(source, model))


@pytest.mark.parametrize(
    ("optimizer", "name", "kept"),
    [
        ("adamw", "transformer.ln_f.bias", {"exp_avg", "step"}),
        ("lion", "transformer.h.0.mlp.c_fc.weight", {"exp_avg", "exp_inf"}),
        # SGD's, and DeepSpeed's Muon where it steps embeddings.
        ("muon", "transformer.wte.weight", {"momentum_buffer"}),
        ("muon", "transformer.h.1.mlp.c_proj.weight", {"exp_avg", "exp_avg_sq", "step"}),
    ],
)
def test_a_state_that_no_one_optimizer_keeps_is_refused_by_tensor(optimizer, name, kept):
    model = small_model("gpt2")
    source = kept_by(optimizer, model)
    source[name] = dict.fromkeys(kept, 1.0)
    with pytest.raises(UserError, match=rf"of AdamW, Lion or Muon, and of tensor '{name}' .* kept {', '.join(sorted(kept))};"):
        plan_of(model, {"hidden_size": 64}, GROW)[0].grow_optimizer(source)


def test_what_two_optimizers_step_alike_goes_on_under_both():
    """Of a run whose layers stood still Muon and AdamW have kept the same."""
    model = small_model("gpt2")
    source = {name: kept for name, kept in kept_by("adamw", model).items() if ".h." not in name}
    for optimizer in ("adamw", "muon"):
        assert plan_of(model, {"hidden_size": 64}, GROW, optimizer=optimizer)[0].grow_optimizer(source)
