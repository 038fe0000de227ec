"""DeepSeek-V3 against its stock class: options, groups, layers without experts, its buffer, and published files."""

import json
from functools import partial

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipeline.common.errors import UserError
from pipeline.families import FAMILIES, held_by, read_config
from pipeline.growth.grown_tensor import GrownTensor, MeasuredTensor
from pipeline.growth.huggingface import MappedTensor
from pipeline.growth.moments import moment_maps
from pipeline.growth.reasons import predict
from pipeline.growth.sources import open_source
from pipeline.growth.zero_files import write_zero3
from tests.pipeline.families.grown import PUBLISHED, certified, gradients
from tests.pipeline.families.grown import grown as grown_of
from tests.pipeline.families.grown import saved as saved_of

FAMILY = FAMILIES["deepseek_v3"]
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 10,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
BIAS = "model.layers.{}.mlp.gate.e_score_correction_bias"


grown = partial(grown_of, "deepseek_v3")
saved = partial(saved_of, name="deepseek_v3")


LARGER = {
    **{"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 5, "kv_lora_rank": 18, "qk_nope_head_dim": 12},
    **{"v_head_dim": 13, "num_experts": 8, "n_shared_experts": 3},
}


@pytest.mark.parametrize(
    "options",
    [
        {"q_lora_rank": None, "attention_bias": True, "n_group": 1},
        {"rope_interleave": False, "norm_topk_prob": False},
        {"rope_parameters": YARN, "n_group": 2, "topk_group": 2},
        {"first_k_dense_replace": 0, "num_experts_per_tok": 1, "tie_word_embeddings": True},
        {"first_k_dense_replace": 3},
    ],
)
def test_everything_grows_exactly_at_once_under_options_of_the_class(options):
    plan, _, _, moved = grown(LARGER, **options)
    assert predict(plan) == [] and moved < 1e-12, moved


@pytest.mark.parametrize(
    ("source", "target", "exact"),
    [
        ({}, {"n_group": 4, "topk_group": 2}, True),
        ({}, {"n_group": 2, "topk_group": 2}, False),
        # Where a token's experts are of any group it does not matter in which they stand.
        ({"n_group": 2, "topk_group": 2}, {"n_group": 2, "topk_group": 2}, True),
        ({"n_group": 1}, {"n_group": 4, "topk_group": 4}, True),
        ({"n_group": 1}, {"n_group": 4, "topk_group": 2}, False),
    ],
)
def test_copies_of_experts_are_chosen_together_where_their_groups_are(source, target, exact):
    plan, _, _, moved = grown({"num_experts": 8} | target, **source)
    assert (predict(plan) == []) is exact is (moved < 1e-12), moved
    assert exact or ([reason.code for reason in predict(plan)] == ["groups_changed"] and moved > 1e-2)


def test_groups_that_are_not_named_follow_the_experts_where_they_matter():
    assert grown({"num_experts": 12})[0].config.n_group == 6
    assert grown({"num_experts": 12}, n_group=2, topk_group=2)[0].config.n_group == 2


def test_layers_without_experts_are_counted_by_the_layers_that_they_are_made_of():
    plan, _, after, moved = grown({"num_hidden_layers": 5}, {"depth": "interleave"}, first_k_dense_replace=2)
    dense = [origin.source < 2 for origin in plan.layers]
    assert plan.config.first_k_dense_replace == sum(dense) > 2 and moved < 1e-12
    assert [hasattr(layer.mlp, "gate") for layer in after.model.layers] == [not each for each in dense]
    with pytest.raises(UserError, match=r"growth\.depth: layer 1 would have experts and layer 3 none"):
        grown({"num_hidden_layers": 6}, {"depth": "stack"})


def test_the_norms_over_latents_add_the_same_whatever_the_configuration_says():
    """An epsilon of the stream's that is large, and one of the latents that is not."""
    _, _, after, moved = grown({"kv_lora_rank": 36, "q_lora_rank": 40, "hidden_size": 128}, rms_norm_eps=0.5)
    assert moved < 1e-12 and after.model.layers[0].self_attn.kv_a_layernorm.variance_epsilon == 1e-6


@pytest.mark.parametrize("renormalized", [True, False])
def test_moments_of_latents_and_experts_are_those_of_the_grown_models_gradients(renormalized):
    """m / (a n) of whatever is there n times and was multiplied by a, where new channels and units write nothing."""
    sizes = {"kv_lora_rank": 20, "q_lora_rank": 30, "qk_nope_head_dim": 12, "v_head_dim": 15, "num_experts": 8}
    plan, model, after, _ = grown(sizes, {"symmetry": "none", "width": "zero_pad", "scaled": True}, norm_topk_prob=renormalized)
    before, now = gradients(model), gradients(after)
    compared = 0
    for name, wanted in now.items():
        tensor = plan.tensors[name]
        maps = plan.index_maps[name]
        source = MeasuredTensor(MappedTensor(before[plan.source_name(tensor)]))
        moved = moment_maps(maps, False).maps["exp_avg"]
        kept = GrownTensor((), source, source, moved, dtype=torch.float64).rows(0, wanted.shape[0])
        held = torch.ones(wanted.shape, dtype=torch.bool)
        for axis, each in enumerate(maps):
            held &= each.keeps_moments.reshape([-1 if other == axis else 1 for other in range(len(maps))])
        torch.testing.assert_close(kept[held], wanted[held], rtol=1e-9, atol=1e-14, msg=name)
        compared += bool(held.any())
    routers = sum(name.endswith("gate.weight") for name in now)
    assert compared == len(now) - routers and routers == 2


def test_the_bias_that_chooses_experts_goes_with_them_through_every_file(tmp_path):
    source = saved(tmp_path / "source")
    held = held_by(source)[BIAS.format(1)]
    certificate = certified(tmp_path / "source", {"num_experts": 8, "hidden_size": 96}, {}, "bfloat16")
    assert certificate["verdict"] == "exact" and certificate["measured"]["max_logit_difference"] < 1e-11
    grown = open_source(tmp_path / "out")
    (tmp_path / "zero3").mkdir()
    write_zero3(tmp_path / "zero3", grown.config, grown.state, 2)
    for found in (grown, open_source(tmp_path / "zero3")):
        assert torch.equal(found.state[BIAS.format(1)].rows(0, 8), held.float().repeat(2))
    with safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        assert file.get_tensor(BIAS.format(2)).dtype is torch.float32
        assert file.get_tensor("model.layers.2.mlp.experts.7.gate_proj.weight").dtype is torch.bfloat16


def test_layers_that_predict_tokens_further_on_are_left_out_and_told(tmp_path):
    """A published DeepSeek-V3 holds layer 61 of layers 0 to 60."""
    saved(tmp_path, num_hidden_layers=2)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    beyond = {name.replace("layers.1.", "layers.2."): value.clone() for name, value in tensors.items() if "layers.1." in name}
    beyond |= {"model.layers.2.eh_proj.weight": torch.ones(4, 8), "model.layers.2.shared_head.norm.weight": torch.ones(4)}
    save_file(tensors | beyond, path, {"format": "pt"})
    source = open_source(tmp_path)
    assert source.config.num_nextn_predict_layers == 0 and not any("layers.2." in name for name in source.state)
    assert "model.layers.2: after the last of 2 layers" in " ".join(source.remarks)
    save_file(tensors | {name.replace("layers.2.", "layers.3."): value for name, value in beyond.items()}, path)
    with pytest.raises(UserError, match=r"tensor 'model.layers.3\S+' is unknown"):
        open_source(tmp_path)


def test_weights_in_eight_bits_are_refused_by_their_scales(tmp_path):
    saved(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    eight_bits = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    (tmp_path / "config.json").write_text(json.dumps(content | eight_bits))
    path = tmp_path / "model.safetensors"
    save_file(load_file(path) | {"model.layers.0.mlp.up_proj.weight_scale_inv": torch.ones(1, 1)}, path, {"format": "pt"})
    with pytest.raises(UserError, match=r"mlp\.up_proj\.weight_scale_inv'"):
        open_source(tmp_path)


def test_a_published_configuration_is_read(tmp_path):
    """DeepSeek-V3's, without the key that says that its weights are in eight bits, of four layers."""
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED["DeepSeek-V3 of four layers"]))
    graph = FAMILY.graph(read_config(tmp_path / "config.json"))
    dense, sparse, rest = 583_483_392, 11_507_286_016, 1_853_365_248
    assert graph.parameters == 3 * dense + sparse + rest
    experts = graph.layers[-1].branches[-1].body
    assert (experts.gate, experts.groups, experts.groups_per_token, experts.scaling) == ("sigmoid", 8, 4, 2.5)
    assert experts.selection_bias == BIAS.format(3)
