"""Operator by family by ratio: the engine against the reference tensor by tensor, and against the source's logits.

What is exact stands in the tables below as it follows from the norms (LayerNorm takes off the mean, RMSNorm does not; a
post-LN norm writes the residual stream itself), not as the engine tells it.
"""

import functools

import pytest

from pipeline.common.errors import UserError
from pipeline.growth.reasons import exactness, predict
from tests.pipeline.growth.models import (
    FAMILY_NAMES,
    POST_LAYER_NORM,
    PRE_LAYER_NORM,
    RMS_NORM,
    grown_tensors,
    loaded,
    logits,
    plan_of,
    small_model,
    tokens,
)
from tests.pipeline.growth.reference import Reference

EXACT = 1e-12
"""Logits of order 1 after some hundred products: rounding is a few 1e-15, the least real departure seen 1e-2."""
DIFFERENT = 1e-4
SAME_TENSOR = 1e-12
"""Of the largest element: sums in another order, in float64."""
SEED = 3

OPERATORS = {
    "fpi": {"width": "fpi"},
    "fpi, random map": {"width": "fpi", "map": "random"},
    "aki": {"width": "aki"},
    "nai": {"width": "nai"},
    "nai, last": {"width": "nai", "neighbours": "last"},
    "nai, paper factor": {"width": "nai", "paper_factor": True},
    "direct copy": {"width": "direct_copy"},
    "zero pad": {"width": "zero_pad", "noise": 0.1},
    "zero pad, scaled": {"width": "zero_pad", "scaled": True},
    "average pad": {"width": "average_pad"},
    "sqrt count": {"width": "sqrt_count"},
    "hypercloning": {"width": "hypercloning"},
    "exact aki": {"width": "exact_aki"},
}
RATIOS = {"x2": 64, "x1.5": 48, "x2.5": 80}
EXACTNESS = {"E": "exact", "a": "approximate", "d": "inexact by design"}
REFUSED = "r"

# At x2, x1.5, x2.5 for norms before attention and FFN (LayerNorm), after them (LayerNorm), before (RMSNorm).
WIDTH = {
    "fpi": "Eaa Eaa Eaa",
    "fpi, random map": "aaa aaa aaa",
    "aki": "ddd ddd ddd",
    "nai": "Eaa Eaa Eaa",
    "nai, last": "aaa aaa aaa",
    "nai, paper factor": "ddd ddd ddd",
    "direct copy": "ddd ddd ddd",
    "zero pad": "ddd ddd ddd",
    "zero pad, scaled": "aaa aaa EEE",
    "average pad": "EEE Eaa Eaa",
    "sqrt count": "Eaa Err EEE",
    "hypercloning": "Err Err Err",
    "exact aki": "EEE Eaa EEE",
}
REFUSALS = {"sqrt count": "the norms of a post-LN model", "hypercloning": "repeats whole axes"}

DEPTH_RATIOS = {"x1": 4, "x2": 8, "x1.5": 6}
# At x1, x2, x1.5 for norms before and after.
DEPTH = {
    "stack": "Edd Edd",
    "midas": "Edd Edd",
    "random": "Edd Edd",
    "last_layer": "EEE Eaa",
    "interleave": "EEE Eaa",
    "list": "Edd Edd",
}
LISTS = {4: [0, 1, 2, 3], 8: [0, 1, 2, 1, 2, 3, 3, 0], 6: [0, 1, 1, 2, 2, 3]}

MODELS = [*((family, True) for family in FAMILY_NAMES), *((family, False) for family in ("gpt2", "bert", "llama"))]


@functools.cache
def source(family, tied=True, layers=3):
    return small_model(family, tied=tied, layers=layers)


def kind(family):
    return next(i for i, families in enumerate((PRE_LAYER_NORM, POST_LAYER_NORM, RMS_NORM)) if family in families)


def check(model, target, growth, expected):
    """Compare the engine's growth with the reference's, its exactness with `expected`, and the logits with the source's."""
    plan, config = plan_of(model, target, growth, SEED)
    drawn = {}
    if growth.get("map") == "random":
        drawn = {axis: axis_map.indices.tolist() for axis, axis_map in plan.maps.items()}
    grown = grown_tensors(plan, model)
    reference = Reference(model, config, plan.growth, SEED, drawn).grown()
    assert set(grown) == set(reference)
    for name, tensor in reference.items():
        assert grown[name].shape == tensor.shape, name
        assert (grown[name] - tensor).abs().max() <= SAME_TENSOR * tensor.abs().max(), name
    assert exactness(predict(plan)).value == expected
    moved = (logits(loaded(grown, config), tokens()) - logits(model, tokens())).abs().max()
    assert moved <= EXACT if expected == "exact" else moved > DIFFERENT


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(("family", "tied"), MODELS)
def test_width(family, tied, operator, ratio):
    target, growth = {"hidden_size": RATIOS[ratio]}, OPERATORS[operator]
    expected = WIDTH[operator].split()[kind(family)][list(RATIOS).index(ratio)]
    if expected == REFUSED:
        with pytest.raises(UserError, match=REFUSALS[operator]):
            plan_of(source(family, tied), target, growth, SEED)
    else:
        check(source(family, tied), target, growth, EXACTNESS[expected])


@pytest.mark.parametrize("ratio", DEPTH_RATIOS)
@pytest.mark.parametrize("operator", DEPTH)
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_depth(family, operator, ratio):
    layers = DEPTH_RATIOS[ratio]
    growth = {"depth": operator} | ({"layers": LISTS[layers]} if operator == "list" else {})
    expected = DEPTH[operator].split()[family in POST_LAYER_NORM][list(DEPTH_RATIOS).index(ratio)]
    check(source(family, layers=4), {"num_hidden_layers": layers}, growth, EXACTNESS[expected])


WIDER_AND_DEEPER = {"hidden_size": 48, "num_hidden_layers": 5}
WIDER_HEADS = {"hidden_size": 64, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("family", "target", "growth", "expected"),
    [
        ("gpt2", WIDER_AND_DEEPER, {"width": "aki", "depth": "stack"}, "inexact by design"),
        ("bert", WIDER_AND_DEEPER, {"width": "aki", "depth": "stack"}, "inexact by design"),
        ("bert", {"hidden_size": 64, "num_hidden_layers": 6}, {"width": "fpi", "depth": "stack"}, "inexact by design"),
        ("gpt2", WIDER_AND_DEEPER | {"hidden_size": 64}, {"width": "nai", "depth": "last_layer"}, "exact"),
        ("gpt2", WIDER_AND_DEEPER, {"width": "exact_aki", "depth": "interleave"}, "exact"),
        ("qwen3", WIDER_AND_DEEPER, {"width": "exact_aki", "depth": "interleave"}, "exact"),
        ("llama", WIDER_AND_DEEPER, {"width": "zero_pad", "noise": 0.1, "depth": "random"}, "inexact by design"),
        ("gpt2", {"intermediate_size": 100}, {"width": "fpi", "map": "random"}, "exact"),
        ("bert", {"intermediate_size": 100}, {"width": "fpi", "map": "random"}, "exact"),
        ("llama", {"intermediate_size": 100}, {"width": "fpi", "map": "random"}, "exact"),
        ("bert", {"intermediate_size": 100}, {"width": "exact_aki"}, "exact"),
        ("bert", {"intermediate_size": 100}, {"width": "zero_pad", "scaled": True}, "exact"),
        ("bert", {"intermediate_size": 100}, {"width": "direct_copy"}, "inexact by design"),
    ],
)
def test_some_axes_or_all(family, target, growth, expected):
    check(source(family), target, growth, expected)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("family", ["gpt2", "bert", "llama", "qwen3"])
def test_heads_of_more_channels(family, operator):
    """Scores are divided by sqrt(d_k), rotary pairs keep their frequencies, and Qwen3 normalizes each head."""
    target = WIDER_HEADS | ({"head_dim": 16} if family in RMS_NORM else {})
    expected = WIDTH[operator].split()[kind(family)][list(RATIOS).index("x2")]
    if operator == "nai, paper factor":
        expected = "E"  # sqrt(d_k) grows as sqrt(D) does
    check(source(family), target, OPERATORS[operator], EXACTNESS[expected])


@pytest.mark.parametrize("target", [{"head_dim": 24}, {"head_dim": 16, "num_attention_heads": 8}])
@pytest.mark.parametrize("operator", ["fpi", "average pad", "zero pad, scaled", "exact aki"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_heads_alone(family, operator, target):
    check(source(family), target, OPERATORS[operator], "exact")


@pytest.mark.parametrize("shape", [(8, 2), (16, 4), (12, 4), (4, 4), (8, 8), (8, 4), (16, 2)])
@pytest.mark.parametrize("operator", ["fpi", "fpi, random map", "nai", "zero pad, scaled", "exact aki"])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_groups_of_query_heads(family, operator, shape):
    """From 4 query heads on 2 key-value heads: groups that grow, more of them, and groups that fall apart."""
    heads, kv_heads = shape
    # Llama's configuration wants the hidden size to be a multiple of the heads: 12 heads go with 48.
    target = {"num_attention_heads": heads, "num_key_value_heads": kv_heads}
    if heads % 3 == 0:
        target |= {"hidden_size": 96}
    expected = "approximate" if heads % 3 == 0 and operator == "fpi, random map" else "exact"
    check(source(family), target, OPERATORS[operator], expected)


@pytest.mark.parametrize("vocabulary", ["mean", "random"])
@pytest.mark.parametrize("operator", ["fpi", "aki", "average pad", "zero pad", "direct copy"])
@pytest.mark.parametrize(
    ("family", "tied"), [("gpt2", True), ("gpt2", False), ("bert", True), ("bert", False), ("llama", False)]
)
def test_more_words(family, tied, operator, vocabulary):
    """The logits of the words that the source knew are what they would be without new ones."""
    expected = WIDTH[operator].split()[kind(family)][0]
    growth = OPERATORS[operator] | {"vocabulary": vocabulary}
    check(source(family, tied), {"vocab_size": 60, "hidden_size": 64}, growth, EXACTNESS[expected])


@pytest.mark.parametrize(("positions", "expected"), [("copy", "exact"), ("interpolate", "inexact by design")])
@pytest.mark.parametrize("family", ["gpt2", "bert", "roberta"])
def test_more_positions(family, positions, expected):
    check(
        source(family), {"max_position_embeddings": 45, "hidden_size": 64}, {"width": "fpi", "positions": positions}, expected
    )


def moved(model, target, growth, *, stock=False):
    """Return by how much a growth moves a logit in a stock model."""
    plan, config = plan_of(model, target, growth, SEED, stock=stock)
    grown = loaded(grown_tensors(plan, model), config)
    return plan, (logits(grown, tokens()) - logits(model, tokens())).abs().max().item()


@pytest.mark.parametrize(
    "target",
    [
        {"hidden_size": 64},
        {"hidden_size": 48, "intermediate_size": 100},
        {"num_hidden_layers": 5},
        {"intermediate_size": 72},
        {},
    ],
)
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_what_is_not_named_is_exact_where_anything_is(family, target):
    """The defaults, offline and in training: no word of operators anywhere."""
    plan, difference = moved(source(family), target, {}, stock=True)
    post_norm = family in POST_LAYER_NORM
    exact = not post_norm or (target.get("hidden_size") != 48 and "num_hidden_layers" not in target)
    assert exactness(predict(plan)).value == ("exact" if exact else "approximate")
    assert (difference <= EXACT) == exact
    kinds = [choice.split(":")[0] for choice in plan.choices]
    assert kinds == (["depth"] if "num_hidden_layers" in target else ["width"] if target else [])
    if post_norm and "hidden_size" in target and not exact:
        in_training, _ = moved(source(family), target, {})
        assert exactness(predict(in_training)).value == "exact" and in_training.growth.norm_statistics == "weighted"


OTHER_WIDTHS = [
    {"width": "fpi"},
    {"width": "fpi", "map": "random"},
    {"width": "nai"},
    {"width": "nai", "neighbours": "last"},
    {"width": "exact_aki"},
    {"width": "aki"},
    {"width": "zero_pad", "scaled": True},
    {"width": "zero_pad", "noise": 0.02},
    {"width": "direct_copy"},
]


@pytest.mark.parametrize("hidden", [40, 48, 56, 72])
@pytest.mark.parametrize("family", POST_LAYER_NORM)
def test_where_no_width_is_exact_the_least_inexact_is_taken(family, hidden):
    plan, least = moved(source(family), {"hidden_size": hidden}, {}, stock=True)
    assert plan.growth.norm_statistics == "stock"
    others = [moved(source(family), {"hidden_size": hidden}, growth)[1] for growth in OTHER_WIDTHS]
    assert least < min(others)


@pytest.mark.parametrize("layers", [5, 6, 8, 12])
@pytest.mark.parametrize("family", POST_LAYER_NORM)
def test_where_no_depth_is_exact_the_least_inexact_is_taken(family, layers):
    """A copied layer moves these logits by 2 and more."""
    model = small_model(family, layers=4)
    # Random layers write as much at 32 channels as they do at 768 with the usual 0.02.
    model.config.initializer_range = 0.1
    plan, least = moved(model, {"num_hidden_layers": layers}, {}, stock=True)
    assert plan.growth.depth == "last_layer"
    lists = [[layer * 4 // layers for layer in range(layers)], [min(layer, 3) for layer in range(layers)]]
    others = [{"depth": "stack"}, {"depth": "random"}, *({"depth": "list", "layers": layers} for layers in lists)]
    assert least < min(moved(model, {"num_hidden_layers": layers}, growth)[1] for growth in others)


@pytest.mark.parametrize(
    ("family", "target", "growth", "phrase"),
    [
        ("gpt2", {"hidden_size": 48}, {"width": "zero_pad"}, "without a gradient for ever"),
        ("bert", {"intermediate_size": 80}, {"width": "zero_pad"}, "without a gradient for ever"),
        ("gpt2", {"hidden_size": 48, "intermediate_size": 100}, {"width": "nai"}, "does not fit ffn: 64 -> 100"),
        ("gpt2", {"intermediate_size": 100}, {"width": "hypercloning"}, "does not fit ffn: 64 -> 100"),
        ("gpt2", {"num_hidden_layers": 5}, {"depth": "list", "layers": [0, 1]}, "make them agree"),
        ("gpt2", {"num_hidden_layers": 4}, {"depth": "list", "layers": [0, 1, 2, 3]}, "3 is no layer of the source"),
    ],
)
def test_refusals(family, target, growth, phrase):
    with pytest.raises(UserError, match=phrase):
        plan_of(source(family), target, growth, SEED)
