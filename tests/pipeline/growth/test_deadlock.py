"""What the graph says can never learn, against the gradients of stock models in float64."""

import dataclasses

import pytest
import torch
from torch.nn.functional import cross_entropy

from pipeline.common.errors import UserError
from pipeline.families import FAMILIES
from pipeline.families.tensors import RESIDUAL
from pipeline.growth import plan as planning
from pipeline.growth.deadlock import Deadlock
from pipeline.growth.float64_casts import Float64Casts
from pipeline.growth.fused_parameters import stored_of
from pipeline.growth.huggingface import MappedTensor
from pipeline.growth.index_map import ZERO
from tests.pipeline.growth import check
from tests.pipeline.growth.models import family_named

STEPS = 4
"""What a zero keeps from learning learns a step after it: rows of a new unit after its columns, its scores after its values."""

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 24,
    "vocab_size": 23,
    "max_position_embeddings": 16,
}

WIDER = {"hidden_size": 24}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
GROWTHS = {
    "auto": (WIDER | {"num_hidden_layers": 3}, {}),
    "copies": (WIDER, {"width": "fpi"}),
    "next layer": (WIDER, {"width": "aki"}),
    "neighbours": ({"hidden_size": 32, "num_hidden_layers": 3}, {"width": "nai", "depth": "last_layer"}),
    "average": (WIDER | {"num_hidden_layers": 3}, {"width": "average_pad", "depth": "interleave"}),
    "square roots": ({"hidden_size": 32}, {"width": "sqrt_count"}),
    "direct copy": (WIDER, {"width": "direct_copy"}),
    "zeros": (WIDER, {"width": "zero_pad"}),
    "zeros in the FFN": ({"intermediate_size": 31}, {"width": "zero_pad"}),
    "small values": (WIDER, {"width": "zero_pad", "noise": 0.1}),
    "scaled zeros": (WIDER, {"width": "zero_pad", "scaled": True}),
}
OF_THEIR_OWN = {
    "zeros in heads": (HEADS, {"width": "zero_pad"}),
    "zeros in wider heads": ({"head_dim": 16}, {"width": "zero_pad"}),
    "zeros in the stream": (WIDER | {"num_attention_heads": 2, "intermediate_size": 24}, {"width": "zero_pad"}),
    "wider heads": ({"head_dim": 16}, {}),
    "wider heads that copy": ({"head_dim": 16}, {"width": "fpi"}),
    "wider heads at random": ({"head_dim": 16}, {"width": "direct_copy"}),
}
"""Of families whose heads need not fill the stream."""


def configured(name, **changed):
    family = family_named(name)
    known = {key: value for key, value in SIZES.items() if key != "head_dim" or hasattr(family.config_class, key)}
    return check.small_config(family, **known | {family.intermediate_key: SIZES["intermediate_size"]} | changed)


@pytest.fixture
def planned(monkeypatch):
    """A maker of plans without the check."""
    monkeypatch.setattr(planning, "_refuse_deadlock", lambda plan: None)

    def plan(name, sizes, growth, **changed):
        return check.plan_of(configured(name, **changed), sizes, growth)

    return plan


def derived(plan):
    """Of each tensor, by the name that it has in all layers: on which axes how many indices can never learn."""
    return {(plan.family.kind(dead.tensor.name), dead.axis, dead.count) for dead in Deadlock(plan).dead()}


def measured(plan, grown):
    """The same of the gradients that the stock class has had after some steps of Adam."""
    vocabulary = SIZES["vocab_size"]
    ids = torch.randint(4, vocabulary, (4, 14), generator=torch.Generator().manual_seed(5))
    *_, read = (inputs := plan.family.inputs(ids)).values()
    optimizer = torch.optim.Adam(grown.parameters(), lr=1e-3)
    parameters = dict(grown.named_parameters())
    largest = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for _ in range(STEPS):
        optimizer.zero_grad()
        with Float64Casts():
            outputs = grown(**inputs)
            loss = cross_entropy(outputs[plan.family.logits].flatten(0, 1), read.roll(-1, 1).flatten())
            if plan.family.pair_logits is not None:
                loss += cross_entropy(outputs[plan.family.pair_logits], torch.arange(len(ids)) % 2)
            loss.backward()
        for name, parameter in parameters.items():
            # Of two biases of logits a class leaves one unused.
            gradient = torch.ones_like(parameter) if parameter.grad is None else parameter.grad.abs()
            torch.maximum(largest[name], gradient, out=largest[name])
        optimizer.step()
    found = set()
    stored = stored_of(plan.graph, {name: MappedTensor(values) for name, values in largest.items()})
    largest = {name: tensor.rows(0, tensor.shape[0]) for name, tensor in stored.items()}
    for name, tensor in plan.tensors.items():
        # Experts are made alike, and one is looked at.
        if tensor.buffer or bias_of_keys(plan, name) or tensor.expert not in (None, 0):
            continue
        for axis, role in enumerate(tensor.roles):
            if role == "index":
                continue  # Not every token and position is in the batch.
            reached = largest[name].movedim(axis, 0).flatten(1).amax(1) if largest[name].dim() > 1 else largest[name]
            # Rounding leaves 1e-18 where there is nothing; the smallest gradient that counts is some 1e-8.
            if dead := int((reached < 1e-13).sum()):
                found.add((plan.family.kind(name), axis, dead))
    return found


def bias_of_keys(plan, name):
    """The scores of one query do not change when all keys move alike: a key's bias learns nothing, old or new."""
    linears = [linear for branch in plan.graph.stack.layers[0].branches for linear in getattr(branch.body, "inputs", ())]
    kinds = {plan.family.kind(each.bias) for each in linears if each.bias and any(p.name == "key" for p in each.out.parts)}
    return plan.family.kind(name) in kinds


def grown(plan, name, **changed):
    config = configured(name, **changed)
    return check.grown_model(plan, check.random_model(plan.family, config, 1))


KINDS = ("bert", "gpt2", "llama", "qwen3", "gemma2", "olmo2", "starcoder2")
"""Families whose norms stand in other places or are others."""
CASES = [
    *((name, growth) for name in FAMILIES for growth in ("auto", "zeros")),
    *((name, growth) for name in (*KINDS, "bert with pairs") for growth in GROWTHS if growth not in ("auto", "zeros")),
    *((name, growth) for name in KINDS if FAMILIES[name].own_head_dim for growth in OF_THEIR_OWN),
]


@pytest.mark.parametrize(("name", "growth"), CASES)
def test_what_never_has_a_gradient_is_what_the_graph_says(name, growth, planned):
    plan = planned(name, *(GROWTHS | OF_THEIR_OWN)[growth])
    dead = {each for each in derived(plan) if not bias_of_keys(plan, each[0])}
    assert measured(plan, grown(plan, name)) == dead
    assert bool(dead) is (
        growth in ("zeros", "zeros in the FFN")
        or growth in ("zeros in heads", "zeros in wider heads")
        # LayerNorm makes other numbers of zeros.
        or (growth == "zeros in the stream" and name != "starcoder2")
    )


def with_zeros(plan, kinds, axis, first):
    """The plan with zeros from index `first` on along an axis of tensors of these kinds."""
    changed = dict(plan.index_maps)
    for name, maps in plan.index_maps.items():
        if plan.family.kind(name) in kinds:
            places = torch.where(torch.arange(len(maps[axis])) < first, maps[axis].indices, ZERO)
            zeroed = dataclasses.replace(maps[axis], indices=places)
            changed[name] = tuple(zeroed if number == axis else each for number, each in enumerate(maps))
    return dataclasses.replace(plan, index_maps=changed)


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("name", ["olmo2", "llama"])
def test_new_queries_and_keys_that_are_both_zero_never_learn(name, both, planned):
    """Under one norm over all heads that growth is exact, and dead."""
    attention = "model.layers.{layer}.self_attn."
    plan = with_zeros(planned(name, HEADS, {}), {attention + "q_proj.weight"}, 0, 16)
    if both:
        plan = with_zeros(plan, {attention + "k_proj.weight"}, 0, 8)
    expected = {(attention + "q_proj.weight", 0, 16), (attention + "k_proj.weight", 0, 8)} if both else set()
    if both and name == "olmo2":
        expected |= {(attention + "q_norm.weight", 0, 16), (attention + "k_norm.weight", 0, 8)}
    assert derived(plan) == measured(plan, grown(plan, name)) == expected


def test_units_whose_gate_and_rows_are_both_zero_never_learn(planned):
    """Whatever reads them: each is the other's gradient."""
    plan = planned("llama", {"intermediate_size": 31}, {"width": "direct_copy"})
    mlp = "model.layers.{layer}.mlp."
    both = with_zeros(plan, {mlp + "gate_proj.weight", mlp + "up_proj.weight"}, 0, 24)
    assert derived(both) == measured(both, grown(both, "llama"))
    assert derived(both) == {(mlp + "gate_proj.weight", 0, 7), (mlp + "up_proj.weight", 0, 7), (mlp + "down_proj.weight", 1, 7)}
    for one in ("gate_proj.weight", "up_proj.weight"):
        alone = with_zeros(plan, {mlp + one}, 0, 24)
        assert derived(alone) == measured(alone, grown(alone, "llama")) == set()


@pytest.mark.parametrize("name", ["llama", "cohere"])
def test_channels_that_no_gain_and_no_reader_passes_on_learn_through_the_norms_statistics_alone(name, planned):
    untied = {"tie_word_embeddings": False}
    plan = planned(name, WIDER, {"width": "direct_copy"}, **untied)
    kinds = {plan.family.kind(tensor.name): tensor for tensor in plan.tensors.values()}
    gains = {kind for kind, tensor in kinds.items() if len(tensor.axes) == 1}
    readers = {kind for kind, tensor in kinds.items() if "in" in tensor.roles and RESIDUAL in tensor.axes[1].ports}
    plan = with_zeros(with_zeros(plan, gains, 0, 16), readers, 1, 16)
    expected = {(kind, 0, 8) for kind in gains} | {(kind, 1, 8) for kind in readers}
    assert derived(plan) == measured(plan, grown(plan, name, **untied)) == expected


def test_a_gain_of_zero_behind_a_matrix_of_zeros_never_learns(planned):
    """A layer that adds nothing is silenced by one of the two alone."""
    plan = planned("gemma2", {"num_hidden_layers": 3}, {"depth": "last_layer"})
    assert derived(plan) == set() == measured(plan, grown(plan, "gemma2"))
    both = with_zeros(plan, {"model.layers.{layer}.mlp.down_proj.weight"}, 0, 0)
    dead = derived(both)
    assert dead == measured(both, grown(both, "gemma2"))
    assert {kind for kind, _, _ in dead} == {
        kind for kind in map(plan.family.kind, plan.tensors) if "mlp" in kind or "feedforward" in kind
    }
    # The same zeros in the source's own layers learn.
    assert all(one.tensor.layer == 2 for one in Deadlock(both).dead())


@pytest.mark.parametrize(
    ("name", "sizes", "growth", "words"),
    [
        (
            "llama",
            {"intermediate_size": 31},
            {"width": "zero_pad"},
            r"growth\.width: zero_pad leaves both sides of a product zero, .* for ever: "
            r"7 rows of model\.layers\.0\.mlp\.gate_proj\.weight, 7 rows of model\.layers\.0\.mlp\.up_proj\.weight, "
            r"7 columns of model\.layers\.0\.mlp\.down_proj\.weight; set growth\.noise .* or choose width: auto$",
        ),
        (
            "gpt2",
            WIDER,
            {"width": "zero_pad"},
            r"24 columns of transformer\.h\.0\.attn\.c_attn\.weight, .* and more of \d tensors;",
        ),
    ],
)
def test_a_growth_that_leaves_anything_dead_is_refused_by_tensor(name, sizes, growth, words):
    with pytest.raises(UserError, match=words):
        check.plan_of(configured(name), sizes, growth)
    assert check.plan_of(configured(name), sizes, growth | {"noise": 0.02})
