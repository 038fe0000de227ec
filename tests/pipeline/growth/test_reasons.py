"""Each reason why a growth changes the function: a growth that has it, of which stock models then give other logits."""

import dataclasses
from dataclasses import dataclass, field

import pytest
import torch

from pipeline.families import FAMILIES, target_config
from pipeline.growth.axis_rules import AxisRules
from pipeline.growth.certificate import certify
from pipeline.growth.departure_sentences import SENTENCES
from pipeline.growth.duplicates import predict_duplicates
from pipeline.growth.plan import plan_growth
from pipeline.growth.reasons import Exactness, exactness, predict
from pipeline.operators import WIDTH, Stream, Units
from pipeline.operators.base import Content
from pipeline.recipe import GrowthConfig, TargetConfig
from tests.pipeline.growth import check

WIDER, HEADS = {"hidden_size": 96}, {"num_attention_heads": 8, "num_key_value_heads": 4}
MORE_LAYERS = {"num_hidden_layers": 4}
MIXTURE = {"num_experts": 8, "num_experts_per_tok": 4}


@dataclass
class Case:
    """A growth that departs from its source."""

    code: str
    family: str
    sizes: dict
    growth: dict = field(default_factory=dict)
    source: dict = field(default_factory=dict)
    """What else the source's configuration says."""
    target: dict = field(default_factory=dict)
    """What the target's says otherwise, which a recipe cannot ask for."""
    words: str = ""
    causes: int = 1
    """How many reasons there are."""


CASES = [
    Case(
        "noise_enters_norm",
        "gpt2",
        WIDER,
        {"width": "direct_copy"},
        words="gpt2 at x1.5: new channels of the residual stream hold random values, which enter the statistics of the "
        "LayerNorm before a branch (transformer.h.0.ln_1.weight)",
        causes=2,
    ),
    Case(
        "noise_enters_norm",
        "olmo2",
        HEADS,
        {"width": "direct_copy"},
        words="olmo2 at x2 of its heads' channels: new channels of heads hold random values, which enter the statistics of the "
        "RMSNorm over all heads' queries (model.layers.0.self_attn.q_norm.weight)",
        causes=2,
    ),
    Case(
        "uneven_counts",
        "olmo2",
        WIDER,
        {"width": "fpi"},
        words="olmo2 at x1.5: channels are copied 1 and 2 times under one RMSNorm on what a branch adds "
        "(model.layers.0.post_attention_layernorm.weight)",
    ),
    Case("uneven_counts", "bert", WIDER, {"width": "fpi"}, words="one LayerNorm after the embeddings (bert.embeddings"),
    Case("zeros_enter_layer_norm", "gpt2", WIDER, {"width": "zero_pad", "scaled": True}, words="zeros, scaled for the norm in"),
    Case(
        "means_enter_rms_norm",
        "llama",
        WIDER,
        {"width": "average_pad"},
        words="llama at x1.5: whole copies, the rest at the mean in new channels of the residual stream shift the statistics",
    ),
    Case("statistics_scaled", "bert", WIDER, {"width": "average_pad"}),
    Case("mean_not_written", "modernbert", WIDER, {"width": "average_pad"}, words="LayerNorm after the embeddings"),
    Case(
        "activated",
        "modernbert",
        WIDER,
        {"width": "sqrt_count"},
        words="head.dense.weight: an activation reads copies",
        causes=2,
    ),
    Case("scales_differ_under_layer_norm", "gpt2", WIDER, {"width": "sqrt_count"}),
    Case("noise_is_read", "llama", HEADS, {"width": "direct_copy"}, words="new heads hold random values, and add to"),
    Case("noise_is_read", "gemma2", {"head_dim": 32}, {"width": "direct_copy"}, words="new channels of heads hold random"),
    Case("next_layer", "llama", {"intermediate_size": 130}, {"width": "aki"}),
    Case(
        "scores_scaled",
        "llama",
        {"hidden_size": 128},
        {"width": "nai", "paper_factor": True},
        {"intermediate_size": 96},
        words="model.layers.0.self_attn.q_proj.weight: scores are 1.41 times the source's, by NAI eq. 14's factor",
    ),
    Case(
        "scores_scaled",
        "llama",
        {"head_dim": 32},
        {"width": "direct_copy"},
        words="scores are 0.707 times the source's, since nothing compensates for the larger heads",
        causes=2,
    ),
    Case("noise_added", "gpt2", {"intermediate_size": 128}, {"width": "nai", "noise": 0.05}, {"n_inner": 64}),
    Case("positions_stretched", "gpt2", {"max_position_embeddings": 60}, {"positions": "interpolate"}),
    Case("normalizes_again", "bert", MORE_LAYERS, {"depth": "last_layer"}),
    Case("layers_reordered", "gpt2", {}, {"depth": "list", "layers": [1, 0, 2]}),
    Case("layers_reordered", "gpt2", {}, {"depth": "list", "layers": [0, 1, 1]}, words="reordered or left out", causes=2),
    Case("random_layers", "gpt2", MORE_LAYERS, {"depth": "random"}),
    Case("routing_changed", "mixtral", {"num_experts_per_tok": 3}, words="4 experts of which 3 are chosen, where the source"),
    Case(
        "units_redrawn", "llama", MIXTURE | {"model_type": "mixtral"}, {"drop_upcycling": 0.5}, words="0.5 of the units of each"
    ),
    Case(
        "slices_routed_independently",
        "qwen3",
        MIXTURE | {"model_type": "qwen3_moe", "moe_intermediate_size": 50},
        {"piece_routing": "independent"},
        words="each of the 2 parts of an FFN has a row",
    ),
    Case(
        "gates_not_renormalized",
        "qwen3",
        MIXTURE | {"model_type": "qwen3_moe", "norm_topk_prob": False},
        words="the gates of the 4 of 8 experts",
    ),
    Case(
        "groups_changed",
        "deepseek_v3",
        {"num_experts": 8, "n_group": 4, "topk_group": 1},
        {},
        {"num_experts_per_tok": 1},
        words="4 groups of experts of which 1 are chosen, where the source has 2 and chooses 1, for 2 times as many experts",
    ),
    Case(
        "noise_enters_norm",
        "deepseek_v3",
        {"kv_lora_rank": 18},
        {"width": "direct_copy"},
        words="deepseek_v3 at kv_lora_rank 12 -> 18: new channels of the keys' and values' latent hold random values, which "
        "enter the statistics of the RMSNorm over a latent (model.layers.0.self_attn.kv_a_layernorm.weight)",
        causes=2,
    ),
    Case("repeated_layers", "gpt2", MORE_LAYERS, {"depth": "stack"}),
    Case("averaged_layers", "llama", MORE_LAYERS, {"depth": "list", "layers": [0, {0: 0.5, 1: 0.5}, 1, 2]}),
    Case("context_changed", "llama", {"rope_theta": 1e6}, words="rope_theta 10000.0 -> 1000000.0: position 1 is the first"),
    Case(
        "layer_kinds_differ",
        "modernbert",
        MORE_LAYERS,
        {"depth": "list", "layers": [0, 1, 2, 0]},
        words="layers.3.attn_norm",
        causes=2,
    ),
    Case("writers_differ", "bert", WIDER, {"width": "zero_pad", "scaled": True}, causes=2),
    Case("logits_scaled", "cohere", {}, {}, {"tie_word_embeddings": True}, {"logit_scale": 0.125}, words="are multiplied by 2"),
]


def reads_as_others(rules, axis, x, columns):
    return dataclasses.replace(columns, indices=columns.indices.roll(1))


def reads_without_counts(rules, axis, x, columns):
    return dataclasses.replace(columns, scale=None)


def reads_twice(rules, axis, x, columns):
    return columns.times(2.0) if "ffn" in axis.ports else columns


FAULTY = {
    "copies_are_read_as_others": (Case("", "llama", WIDER), reads_as_others),
    "copies_are_read_unevenly": (Case("", "llama", {"intermediate_size": 130}, {"width": "fpi"}), reads_without_counts),
    "writers_scaled_differently": (Case("", "llama", {"intermediate_size": 130}), reads_twice),
}
"""What an operator would come to whose readers are wrong."""


def grown(case):
    """The plan, and by how much the stock class's logits move."""
    family = FAMILIES[case.family]
    config = check.small_config(family, **{"tie_word_embeddings": False} | case.source)
    target = target_config(config, TargetConfig(**case.sizes))
    for key, value in case.target.items():
        setattr(target, key, value)
    model = check.random_model(family, config, 1)
    plan = plan_growth(config, target, GrowthConfig(**case.growth), 1, stock=True)
    return plan, check.moved(plan, model)[0]


def reason_of(plan, code):
    (reason, *_) = [reason for reason in predict(plan) if reason.code == code]
    assert reason.meaning and reason.meaning != reason.cause
    assert "{" not in reason.cause + reason.meaning
    return reason


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code} {case.family}")
def test_a_growth_that_departs_says_so_and_moves_logits(case):
    plan, moved = grown(case)
    reason = reason_of(plan, case.code)
    assert case.words in reason.cause, reason.cause
    assert moved > 1e-4
    causes = [each.cause for each in predict(plan)]
    certificate = certify(plan, "somewhere", "digest", {"max_logit_difference": 1.0, "dtype": "float64"})
    assert certificate["verdict"] != "exact"
    assert [each["cause"] for each in certificate["departures"]] == causes
    assert len(causes) == case.causes, causes


@pytest.mark.parametrize("code", FAULTY)
def test_a_fault_of_an_operator_is_found(code, monkeypatch):
    case, fault = FAULTY[code]
    right = AxisRules.reader
    assert grown(case)[1] < check.EXACT * 10
    monkeypatch.setattr(AxisRules, "reader", lambda rules, axis, x: fault(rules, axis, x, right(rules, axis, x)))
    plan, moved = grown(case)
    assert reason_of(plan, code).tensor in plan.tensors
    assert moved > 1e-4


def test_channels_of_a_head_that_are_not_repeated_alike_under_its_norm_are_found(monkeypatch):
    """As without a norm: some channels of the source's once and the others' places at random."""
    case, right = Case("", "qwen3", {"head_dim": 32}), AxisRules.heads

    def faulty(rules, old, new):
        made = right(rules, old, new)
        query = made.rows["query"]
        uneven = torch.where(torch.arange(len(query)) % 32 == 31, query.indices - 1, query.indices)
        return dataclasses.replace(made, rows=made.rows | {"query": dataclasses.replace(query, indices=uneven)})

    assert grown(case)[1] < check.EXACT * 10
    monkeypatch.setattr(AxisRules, "heads", faulty)
    plan, moved = grown(case)
    assert "model.layers.0.self_attn.q_norm.weight" in reason_of(plan, "uneven_channels_of_head").cause
    assert moved > 1e-4


def test_channels_of_the_next_layer_are_found_also_where_new_units_write_nothing(monkeypatch):
    content = Content(Stream.COPY, Units.ZERO_OUTPUT, next_layer=True)
    operator = dataclasses.replace(WIDTH["aki"], content=lambda options, norms: content)
    monkeypatch.setitem(WIDTH, "aki", operator)
    plan, moved = grown(Case("", "gpt2", {"hidden_size": 128}, {"width": "aki"}))
    assert reason_of(plan, "next_layer").tensor in plan.tensors
    assert moved > 1e-4


def test_a_channel_at_the_mean_that_is_read_is_found():
    """It follows from the stream's break, and is reported where that is not."""
    plan, _ = check.planned("llama", WIDER, {"width": "average_pad"}, tie_word_embeddings=True)
    assert [reason.code for reason in predict(plan)] == ["means_enter_rms_norm"]
    read = [departure for departure in plan.departures if departure.cause.code == "mean_is_read"]
    assert reason_of(dataclasses.replace(plan, departures=read), "mean_is_read").tensor == "model.embed_tokens.weight"


def test_every_code_has_its_case():
    others = {"uneven_channels_of_head", "mean_is_read"}
    assert {case.code for case in CASES} | FAULTY.keys() | others == SENTENCES.keys()


@pytest.mark.parametrize("growth", [{"width": "direct_copy"}, {"width": "zero_pad", "noise": 0.1}])
def test_random_heads_under_one_norm_over_all_of_them_are_no_copies_and_change_the_function_on_purpose(growth):
    plan, _ = grown(Case("", "olmo2", HEADS, growth))
    assert exactness(predict(plan)) is Exactness.BY_DESIGN
    assert predict_duplicates(plan) == []
    assert (plan.index_maps["model.layers.0.self_attn.q_proj.weight"][0].indices[64:] < 0).all()
