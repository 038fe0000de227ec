"""What Lion and Muon keep, grown with the weights."""

import pytest
import torch

from pipeline.common.errors import UserError
from pipeline.growth.huggingface import MappedTensor
from pipeline.growth.moments import steps_as_matrix
from pipeline.growth.optimizer_growth import grow_optimizer
from pipeline.growth.plan import GrowthPlan, plan_growth
from pipeline.growth.sources import open_source
from pipeline.growth.step_predictions import predict_moments
from pipeline.growth.zero_files import write_zero3
from pipeline.recipe import GrowthConfig
from tests.pipeline.growth.models import plan_of, small_model, state_of, whole

GROW = {"optimizer_state": "grow"}
AGE = 7.0


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
    "layers with the moments of those that they copy": (
        {"hidden_size": 48, "num_hidden_layers": 5},
        {"depth": "stack", "width": "aki", "new_moments": "copied"},
    ),
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
    grown, expected = grow_optimizer(plan, source), grow_optimizer(plan, as_adam)
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
        assert grow_optimizer(plan, kept_by(source, model))
        return
    with pytest.raises(UserError, match=rf"optimizer\.name: {target} does not go on .* which is {source}; name {source}, or"):
        grow_optimizer(plan, kept_by(source, model))


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
        grow_optimizer(plan_of(model, {"hidden_size": 64}, GROW)[0], source)


def test_what_two_optimizers_step_alike_goes_on_under_both():
    """Of a run whose layers stood still Muon and AdamW have kept the same."""
    model = small_model("gpt2")
    source = {name: kept for name, kept in kept_by("adamw", model).items() if ".h." not in name}
    for optimizer in ("adamw", "muon"):
        assert grow_optimizer(plan_of(model, {"hidden_size": 64}, GROW, optimizer=optimizer)[0], source)


@pytest.mark.parametrize("optimizer", ["lion", "muon"])
def test_a_grown_state_is_written_for_any_number_of_ranks_and_read_again(optimizer, tmp_path):
    """And moves on to another number of ranks, which is a growth too."""
    model = small_model("llama", hidden=16, layers=2, ffn=24)
    plan, config = plan_of(model, {"hidden_size": 24, "num_hidden_layers": 3}, GROW | {"new_moments": "copied", "width": "aki"})
    grown = grow_optimizer(plan, kept_by(optimizer, model))
    state = plan.grow(state_of(model))
    for ranks in (3, 2):
        directory = tmp_path / str(ranks)
        directory.mkdir()
        write_zero3(directory, config, state, ranks, optimizer=grown)
        opened = open_source(directory)
        state, read = opened.state, opened.optimizer
        assert read.keys() == {name for name, kept in grown.items() if kept}
        for name, kept in read.items():
            assert kept.keys() == grown[name].keys()
            assert all(torch.equal(*map(torch.as_tensor, map(whole, (kept[key], grown[name][key])))) for key in kept), name
        grown = grow_optimizer(plan_growth(opened.config, opened.config, GrowthConfig(**GROW), 3, optimizer=optimizer), read)


# --- what copies get that share no gradient ---------------------------------------------------------

NEW_MOMENTS = ("auto", "fresh", "copied", "scaled")
COPIES = {
    "stacked layers": ("gpt2", {"hidden_size": 32, "num_hidden_layers": 5}, {"width": "fpi", "depth": "stack"}, {}),
    "damped layers": ("llama", {"num_hidden_layers": 5}, {"depth": "stack", "repeat_scale": 0.5}, {}),
    "zero-output layers": ("llama", {"hidden_size": 32, "num_hidden_layers": 3}, {"width": "fpi", "depth": "interleave"}, {}),
    "random layers": ("gpt2", {"num_hidden_layers": 3}, {"depth": "random"}, {}),
    "rows of the next layer": ("gpt2", {"hidden_size": 24, "intermediate_size": 40}, {"width": "aki"}, {}),
    "zero-output rows of the next layer": ("llama", {"hidden_size": 32, "num_hidden_layers": 3}, {"width": "exact_aki"}, {}),
    "groups that fall apart": ("llama", {"num_key_value_heads": 2}, {}, {}),
    "noise in pairs": ("llama", {"hidden_size": 32}, {"width": "fpi"}, {"symmetry": "paired", "noise": 0.3}),
    "noise": ("gpt2", {"hidden_size": 32, "num_hidden_layers": 4}, {"width": "nai", "depth": "stack"}, {"noise": 0.1}),
}


def copied_from(plan, model):
    """Return of each tensor (the number of the element that each element copies, the source layer, the factor).

    Found by growing: a copy doubles where all weights double, and of weights that are numbers it has its source's, times the
    factor that it has of ones. -1 where an element is no copy.
    """
    state = state_of(model)
    stride = max(rows.rows(0, rows.shape[0]).numel() for rows in state.values())

    def grown(make):
        made = {name: MappedTensor(make(name, torch.Size(rows.shape)).double()) for name, rows in state.items()}
        return {name: whole(rows).double() for name, rows in plan.grow(made, torch.float64).items()}

    def numbered(name, shape):
        return 1 + torch.arange(shape.numel()).view(shape) + stride * (plan.source_tensors[name].layer or 0)

    ones, twos = (grown(lambda name, shape, value=value: torch.full(shape, value)) for value in (1.0, 2.0))
    numbers, found = grown(numbered), {}
    for name, factor in ones.items():
        is_copy = (twos[name] == 2 * factor) & (factor != 0)
        number = torch.where(is_copy, (numbers[name] / factor).round() - 1, -1).long()
        found[name] = (torch.where(is_copy, number % stride, -1), number // stride, factor)
    return found


def first_of_each(numbers):
    """Return which elements are the first, row-major, of those that have their number."""
    flat = numbers.flatten()
    values, inverse = flat.unique(return_inverse=True)
    places = torch.arange(len(flat))
    first = torch.full((len(values),), len(flat)).scatter_reduce(0, inverse, places, "amin")
    return (places == first[inverse]).view(numbers.shape)


@pytest.mark.parametrize("case", COPIES)
def test_every_element_has_the_moments_and_the_age_that_the_option_says(case):
    family, target, growth, noise = COPIES[case]
    model = small_model(family, hidden=16, layers=2, ffn=24)
    found = copied_from(plan_of(model, target, growth)[0], model)
    source = kept_by("adamw", model)
    for new in NEW_MOMENTS:
        plan = plan_of(model, target, growth | noise | GROW | {"new_moments": new})[0]
        taken = 0
        for name, kept in grow_optimizer(plan, source).items():
            tensor = plan.tensors[name]
            number, layer, factor = found[name]
            copies = number >= 0
            # What the gradient is divided by: copies of one index have parts of its gradient, of whatever layer they are.
            times = torch.bincount(number[copies], minlength=1)[number.clamp(min=0)]
            # Rows that write nothing take no part from those that they copy.
            shared = factor if case.startswith("zero-output rows") else times * factor
            own = copies.clone()
            if tensor.layer is not None:
                # Rows of the next layer are where the first layer has them: the last one's own stand in for those.
                alike = found[plan.graph.at_layer(name, 0)]
                own &= (alike[1] == 0) & (not plan.layers[tensor.layer].added)
            if case == "groups that fall apart" and any(part in name for part in ("k_proj", "v_proj")):
                own &= False
            if noise and new != "auto":
                own &= first_of_each(number)
            counts = copies if new in ("copied", "scaled") else own
            divided = torch.where(own, shared, 1.0) if new == "copied" else shared
            for key, power in (("exp_avg", 1), ("exp_avg_sq", 2)):
                expected = torch.zeros(number.shape, dtype=torch.float64)
                for of in layer[counts].unique().tolist():
                    there = counts & (layer == of)
                    of_source = plan.source_name(tensor, of) if tensor.layer is not None else name
                    values = whole(source[of_source][key]).double().flatten()
                    expected[there] = values[number[there]] / divided[there] ** power
                assert torch.allclose(whole(kept[key]).double(), expected, rtol=1e-6, atol=0), (new, name, key)
            ages = torch.as_tensor(whole(kept["step"])).expand(number.shape)
            assert torch.equal(ages, torch.where(counts, AGE, 0.0)), (new, name)
            taken += int((counts & ~own).sum())
        # The option has something to act on, and that is said where moments are taken over as no others are.
        assert (taken > 0) == (new in ("copied", "scaled") and case != "random layers")
        said = any("new_moments" in cause for cause in predict_moments(plan))
        assert said == (taken > 0 and not (case == "noise in pairs" and new == "scaled"))
