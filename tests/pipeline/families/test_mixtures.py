"""Mixtures of experts: experts that grow, dense models made into mixtures, and their files, against the stock classes."""

import json
import re

import pydantic
import pytest
import torch
from safetensors.torch import load_file

from pipeline.common.errors import UserError
from pipeline.families import FAMILIES, read_config
from pipeline.growth.duplicates import predict_duplicates
from pipeline.growth.float64_casts import Float64Casts
from pipeline.growth.fused_parameters import parameters_of, stored_of
from pipeline.growth.grown_tensor import GrownTensor, MeasuredTensor
from pipeline.growth.huggingface import MappedTensor
from pipeline.growth.listing import listing
from pipeline.growth.moments import moment_maps
from pipeline.growth.reasons import Exactness, exactness, predict
from pipeline.recipe import TargetConfig
from tests.pipeline.families.grown import certified, gradients, grown, offline, saved
from tests.pipeline.growth import check
from tests.pipeline.growth.check import IDS, plan_of

MIXTURES = ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe"]
DENSE_LAYER = {"mlp_only_layers": [1]}


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize(
    ("sizes", "exact"),
    [
        ({"num_experts": 8}, True),
        ({"num_experts": 12, "hidden_size": 96}, True),
        ({"num_experts": 8, "num_experts_per_tok": 2}, False),
        ({"num_experts": 6, "num_experts_per_tok": 3}, False),
        ({"num_experts_per_tok": 3}, False),
    ],
)
def test_experts_that_are_copied_are_exact_where_as_many_more_are_chosen(name, sizes, exact):
    if name == "olmoe" and "hidden_size" in sizes:
        sizes = sizes | {"hidden_size": 128}
    plan, _, _, moved = grown(name, sizes)
    assert (exactness(predict(plan)) is Exactness.EXACT) is exact is (moved < check.EXACT), moved
    if not exact:
        assert [reason.code for reason in predict(plan)] == ["routing_changed"] and moved > 1e-2


@pytest.mark.parametrize("name", ["qwen2_moe", "qwen3_moe"])
def test_experts_and_shared_experts_grow_in_units_and_dense_layers_among_them_too(name):
    sizes = {"moe_intermediate_size": 40, "intermediate_size": 130}
    sizes |= {"shared_expert_intermediate_size": 50} if name == "qwen2_moe" else {}
    for growth in ({}, {"width": "fpi"}):
        plan, _, after, moved = grown(name, sizes, growth, **DENSE_LAYER)
        assert predict(plan) == [] and moved < check.EXACT
    assert tuple(after.model.layers[0].mlp.experts.down_proj.shape) == (4, 64, 40)
    assert tuple(after.model.layers[1].mlp.down_proj.weight.shape) == (64, 130)


@pytest.mark.parametrize(("depth", "dense"), [("interleave", [2, 3]), ("stack", [1, 4])])
def test_layers_without_experts_stay_those_that_they_are_made_of(depth, dense):
    plan, _, _, moved = grown("qwen3_moe", {"num_hidden_layers": 6}, {"depth": depth}, **DENSE_LAYER)
    assert plan.config.mlp_only_layers == dense
    assert (moved < check.EXACT) is (depth == "interleave")


def test_a_step_of_sparse_layers_becomes_a_list_where_growth_breaks_it():
    config = check.small_config(FAMILIES["qwen3_moe"], num_hidden_layers=4, decoder_sparse_step=2)
    plan = plan_of(config, {"num_hidden_layers": 6}, {"depth": "interleave"})
    sparse = [
        any(tensor.expert is not None and tensor.layer == layer for tensor in plan.tensors.values()) for layer in range(6)
    ]
    origins = [origin.source for origin in plan.layers]
    assert sparse == [origin % 2 == 1 for origin in origins]


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_copies_of_an_expert_share_its_gradient_and_its_moments_follow(name):
    """m / 2 and v / 4 of twice as many experts of which twice as many are chosen; a router starts without."""
    plan, model, after, _ = grown(name, {"num_experts": 8}, {"symmetry": "none", "width": "exact_aki"})
    before, now = gradients(model), gradients(after)
    experts = [tensor for tensor in plan.tensors.values() if tensor.expert is not None]
    assert len(experts) == 8 * 3 * 3
    for tensor in experts:
        source = before[plan.source_name(tensor)]
        maps = moment_maps(plan.index_maps[tensor.name], False).maps
        for key, power in (("exp_avg", 1), ("exp_avg_sq", 2)):
            held = MeasuredTensor(MappedTensor(source**power))
            kept = GrownTensor((), held, held, maps[key], dtype=torch.float64).rows(0, tensor.shape(plan.graph.sizes)[0])
            torch.testing.assert_close(kept, now[tensor.name] ** power, rtol=1e-9, atol=1e-14)
    router = next(each.name for each in plan.tensors.values() if each.name.endswith("gate.weight"))
    assert not plan.index_maps[router][0].keeps_moments.any()


def test_copies_of_an_expert_are_told_and_noise_in_pairs_makes_them_unlike():
    plan, _, after, moved = grown("mixtral", {"num_experts": 8}, {"width": "exact_aki"})
    assert predict_duplicates(plan) == ["experts"]
    first, second = (after.model.layers[0].mlp.experts.down_proj.data[i] for i in (1, 5))
    assert torch.equal(first, second)
    for experts in (8, 12):
        plan, model, after, moved = grown("mixtral", {"num_experts": experts})
        assert predict_duplicates(plan) == [] and moved < check.EXACT
        assert any("copies of an expert" in choice for choice in plan.choices)
        source, copies = (
            model.model.layers[0].mlp.experts.down_proj.data[1],
            after.model.layers[0].mlp.experts.down_proj.data[1::4],
        )
        unlike = (copies[0] - copies[1]).abs().mean()
        assert unlike > 0.2 * source.std()
        torch.testing.assert_close(copies[0] + copies[1], 2 * source, rtol=0, atol=1e-14)
        if experts == 12:
            assert torch.equal(copies[2], source)


UPCYCLED = [
    ("llama", "mixtral", {}),
    ("mistral", "mixtral", {"hidden_size": 96, "num_hidden_layers": 4}),
    ("llama", "qwen2_moe", {}),
    ("qwen2", "qwen2_moe", {"shared_expert_intermediate_size": 30}),
    ("qwen2", "qwen2_moe", {"num_experts": 8, "num_experts_per_tok": 4, "moe_intermediate_size": 25}),
    ("qwen3", "qwen3_moe", {"num_experts": 8, "num_experts_per_tok": 8, "moe_intermediate_size": 50, "hidden_size": 128}),
    ("qwen2", "qwen2_moe", {"num_experts": 8, "num_experts_per_tok": 4, "moe_intermediate_size": 56}),
]


@pytest.mark.parametrize(("name", "mixture", "sizes"), UPCYCLED)
def test_a_dense_model_becomes_a_mixture_that_computes_what_it_did(name, mixture, sizes, tmp_path):
    options = {"sliding_window": 7} if name == "mistral" else {}
    options |= {"rope_parameters": {"rope_type": "default", "rope_theta": 7e3}}
    dense = saved(tmp_path / "dense", name, **options)
    sizes = {"model_type": mixture, "num_experts": 4, "num_experts_per_tok": 2} | sizes
    growth = offline(tmp_path / "dense", sizes)
    experts, chosen = sizes["num_experts"], sizes["num_experts_per_tok"]
    assert f"{experts} experts, of which a token goes through {chosen}" in listing(growth)
    certificate = growth.execute(lambda certificate: {})
    assert certificate["verdict"] == "exact" and certificate["measured_agrees"]
    assert certificate["measured"]["max_logit_difference"] < check.EXACT
    options = {"attn_implementation": "eager", "dtype": torch.float64, "experts_implementation": "eager"}
    model = FAMILIES[mixture].model_class.from_pretrained(tmp_path / "out", **options).eval()
    with torch.no_grad(), Float64Casts():
        moved = model(input_ids=IDS).logits - dense(input_ids=IDS).logits
    assert moved.abs().max() < check.EXACT
    assert read_config(tmp_path / "out" / "config.json").rope_parameters["rope_theta"] == 7e3


@pytest.mark.parametrize(
    ("name", "sizes", "says"),
    [
        ("gpt2", {"model_type": "mixtral"}, "a gpt2 does not become a mixtral; of dense models llama"),
        ("mistral", {"model_type": "qwen2_moe"}, "a mistral does not become a qwen2_moe; name mixtral"),
        ("olmo2", {"model_type": "olmoe"}, "no dense model becomes an olmoe: it has one norm over the queries of all heads"),
        ("llama", {"model_type": "llama4"}, "'llama4' is not the source's 'llama'"),
        ("llama", {"model_type": "mixtral", "num_experts": None}, "target.num_experts: not given"),
        ("llama", {"model_type": "mixtral", "num_experts_per_tok": None}, "target.num_experts_per_tok: not given"),
        ("llama", {"model_type": "mixtral", "num_experts_per_tok": 5}, "target.num_experts_per_tok: 5 of 4 experts"),
        (
            "llama",
            {"model_type": "mixtral", "moe_intermediate_size": 50},
            "target.moe_intermediate_size: mixtral has no such key; name intermediate_size",
        ),
        (
            "qwen3",
            {"model_type": "qwen3_moe", "moe_intermediate_size": 40},
            "the 100 units of the source's FFN do not fall into 3 equal parts of up to 40",
        ),
        ("qwen3", {"model_type": "qwen3_moe", "moe_intermediate_size": 50, "num_experts": 5}, "into; name a multiple of 2"),
        (
            "qwen3",
            {"num_experts": 8},
            "qwen3 has no such size; name target.model_type: qwen3_moe, which it can become, or leave",
        ),
        ("qwen3_moe", {"num_experts": 5}, "num_experts_per_tok: the source's 2 of 4 experts do not scale to 5"),
        ("qwen3_moe", {"num_experts": 2, "num_experts_per_tok": 2}, "num_experts: 2 is smaller than the source's 4"),
        ("qwen3_moe", {"num_experts_per_tok": 5}, "num_experts_per_tok: a number up to num_experts 4 is expected"),
        ("qwen3_moe", {"model_type": "mixtral"}, "a qwen3_moe does not become a mixtral"),
    ],
)
def test_experts_that_a_model_cannot_have_are_refused_by_key(name, sizes, says, tmp_path):
    saved(tmp_path / "source", name)
    if "model_type" in sizes:
        sizes = {"num_experts": 4, "num_experts_per_tok": 2} | sizes
    with pytest.raises(UserError, match=re.escape(says)):
        offline(tmp_path / "source", sizes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [{"attention_bias": True}, {"mlp_bias": True}, {"hidden_act": "gelu", "mlp_bias": True}])
def test_a_dense_model_that_has_what_the_mixture_has_not_is_refused(options, tmp_path):
    saved(tmp_path / "s", "llama", **options)
    with pytest.raises(UserError, match="has no place in a mixtral"):
        offline(tmp_path / "s", {"model_type": "mixtral", "num_experts": 4, "num_experts_per_tok": 2})


@pytest.mark.parametrize("name", MIXTURES)
def test_files_have_the_names_that_save_pretrained_writes(name, tmp_path):
    """One tensor for each expert's matrix, which all readers know."""
    saved(tmp_path / "s", name)
    certified(tmp_path / "s", {})
    theirs, ours = (load_file(tmp_path / place / "model.safetensors") for place in ("s", "out"))
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)


def test_parameters_are_joined_and_taken_apart_as_they_were():
    config = check.small_config(FAMILIES["qwen2_moe"])
    model = check.random_model(FAMILIES["qwen2_moe"], config, 1)
    graph = FAMILIES["qwen2_moe"].graph(config)
    held = {name: MappedTensor(parameter.data) for name, parameter in model.named_parameters()}
    again = parameters_of(graph, stored_of(graph, held))
    assert again.keys() == held.keys()
    for name, tensor in again.items():
        assert torch.equal(tensor.rows(0, tensor.shape[0]), held[name].rows(0, tensor.shape[0])), name
        if len(tensor.shape) == 3:
            assert torch.equal(tensor.flat(5, 777), held[name].rows(0, tensor.shape[0]).flatten()[5:777])
    with_w = stored_of(graph, held)["model.layers.0.mlp.experts.2.up_proj.weight"]
    assert torch.equal(with_w.rows(3, 7), model.model.layers[0].mlp.experts.gate_up_proj.data[2, 24:][3:7])


def test_a_config_file_may_name_the_mixture(tmp_path):
    dense = check.small_config(FAMILIES["llama"])
    saved(tmp_path / "s", "llama")
    said = check.small_config(FAMILIES["mixtral"], num_hidden_layers=4, rope_parameters=dense.rope_parameters).to_dict()
    (tmp_path / "mixture.json").write_text(json.dumps(said | {"rms_norm_eps": dense.rms_norm_eps, "head_dim": 16}))
    assert certified(tmp_path / "s", tmp_path / "mixture.json")["verdict"] == "exact"


MISTRAL_7B = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
MISTRAL_7B |= {"num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 32768, "model_type": "mistral"}
QWEN_1_8B = {"hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 24, "num_attention_heads": 16}
QWEN_1_8B |= {"num_key_value_heads": 16, "vocab_size": 151936, "max_position_embeddings": 32768, "model_type": "qwen2"}
MIXTRAL = {"model_type": "mixtral", "num_experts": 8, "num_experts_per_tok": 2}
QWEN_MOE = {"model_type": "qwen2_moe", "num_experts": 60, "num_experts_per_tok": 4, "intermediate_size": 5632}
QWEN_MOE |= {"moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632}


@pytest.mark.parametrize(
    ("source", "target", "stored", "total", "active"),
    [
        # Mixtral-8x7B and Qwen1.5-MoE-A2.7B have as many, by their published configurations.
        (MISTRAL_7B, MIXTRAL, 7_241_732_096, 46_702_792_704, 12_879_925_248),
        (QWEN_1_8B, QWEN_MOE, 1_836_828_672, 14_315_784_192, 2_689_173_504),
    ],
)
def test_published_mixtures_are_planned_from_the_dense_models_beneath_them(source, target, stored, total, active, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(source | {"tie_word_embeddings": False}))
    said = listing(offline(tmp_path, target, preview=True))
    assert f"({stored:,} parameters)" in said and f"({total:,} parameters, {active:,} of them for each token)" in said
    assert "function: exact" in said


@pytest.mark.parametrize("head_dim", ["absent", "null"])
def test_a_mixtral_whose_file_names_no_head_dimension_grows(head_dim, tmp_path):
    """As Mixtral-8x7B's own does, and as save_pretrained writes the class's default."""
    config = check.small_config(FAMILIES["mixtral"])
    config.head_dim = None
    model = check.random_model(FAMILIES["mixtral"], config, 1)
    model.save_pretrained(tmp_path / "source")
    path = tmp_path / "source" / "config.json"
    said = json.loads(path.read_text())
    assert said.pop("head_dim") is None
    path.write_text(json.dumps(said if head_dim == "absent" else said | {"head_dim": None}))
    certificate = certified(tmp_path / "source", {"num_experts": 8, "hidden_size": 96})
    assert certificate["verdict"] == "exact" and certificate["measured"]["max_logit_difference"] < check.EXACT


def test_so_many_experts_that_no_model_has_them_are_refused_before_a_graph_is_made():
    with pytest.raises(pydantic.ValidationError, match="less than or equal to 16384"):
        TargetConfig(model_type="mixtral", num_experts=10**9, num_experts_per_tok=1)
