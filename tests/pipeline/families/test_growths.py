"""Families against their stock classes: shapes, and growths of random models in float64, by what the graph derives of them."""

import copy
import dataclasses
import json

import pytest
import torch

from pipeline.common.errors import UserError
from pipeline.families import FAMILIES, check_parameters, depth_keys, family_of
from pipeline.growth.float64_casts import Float64Casts
from pipeline.growth.reasons import Exactness, exactness, predict
from tests.pipeline.families.grown import certified, grown, logits, moved_by
from tests.pipeline.growth import check
from tests.pipeline.growth.check import plan_of

PRE_NORM = sorted(name for name, family in FAMILIES.items() if family.objective != "mlm")
DEEPENED = [*PRE_NORM, "modernbert"]
"""Those that added layers leave as they are."""

OPTIONS = {
    "llama": [{"attention_bias": True, "mlp_bias": True}],
    "qwen3": [{"attention_bias": True}],
    "gpt_neox": [{"use_parallel_residual": False}, {"attention_bias": False}],
    "stablelm": [{"use_parallel_residual": True}, {"use_qkv_bias": True}],
    "starcoder2": [{"use_bias": False}],
    "phi3": [{"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}],
    "granite": [
        {"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.02, "logits_scaling": 8.0}
    ],
    "cohere": [{"attention_bias": True, "logit_scale": 0.25}],
    "olmo2": [{"num_key_value_heads": 4}],
    "gemma2": [{"query_pre_attn_scalar": 17, "attn_logit_softcapping": 3.0, "final_logit_softcapping": None}],
    "t5": [
        {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        {"tie_word_embeddings": False, "scale_decoder_outputs": True, "head_dim": 24},
    ],
    "smollm3": [{"no_rope_layers": [0, 1, 1]}],
    "modernbert": [
        {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True, "decoder_bias": False},
        {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "local_attention": 6},
    ],
    "cohere2": [{"layer_types": ["full_attention", "sliding_attention", "sliding_attention"], "sliding_window": 5}],
    "olmo3": [{"layer_types": ["full_attention", "sliding_attention", "full_attention"], "sliding_window": 5}],
    "gemma3_text": [{"layer_types": ["full_attention", "sliding_attention", "full_attention"], "sliding_window": 5}],
    "qwen2": [
        {
            "layer_types": ["full_attention", "full_attention", "sliding_attention"],
            "sliding_window": 5,
            "use_sliding_window": True,
        }
    ],
}
"""What a family's configuration may say in addition, and what a growth that made lists anew would get wrong."""


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_familys_graph_has_the_classs_tensors_and_growths_are_what_it_derives(name, tied, capsys):
    family = FAMILIES[name]
    for changed in ({}, {"hidden_size": 96}):
        check_parameters(family, check.small_config(family, tie_word_embeddings=tied, **changed))
    _hold(name, {"tie_word_embeddings": tied}, capsys)


@pytest.mark.parametrize(("name", "options"), [(name, options) for name, listed in OPTIONS.items() for options in listed])
def test_growths_are_what_the_graph_derives_under_a_familys_options(name, options, capsys):
    _hold(name, options, capsys)


def _hold(name, options, capsys):
    found = {outcome.growth: outcome for outcome in check.outcomes(FAMILIES[name], **options)}
    assert all(outcome.holds for outcome in found.values()), found
    exact = {"identity", "width x2", "FFN"}
    if name in DEEPENED:
        exact |= {"depth", "depth on top", "width and depth"}
    if name in PRE_NORM:
        exact |= {"width x1.5"}
        if FAMILIES[name].own_head_dim:
            exact |= {"heads", "head dimension"}
        else:
            assert "not possible, and not counted: target.head_dim" in capsys.readouterr().out
    assert exact <= {growth for growth, outcome in found.items() if outcome.exactness is Exactness.EXACT}


def moved(name, change, options):
    """By how much logits move in five layers whose configuration is changed by hand."""
    config = check.small_config(FAMILIES[name], **options)
    plan = plan_of(config, {"num_hidden_layers": 5})
    change(plan.config)
    return moved_by(plan, check.random_model(FAMILIES[name], config, 1))


@pytest.mark.parametrize(
    ("name", "key", "values", "options"),
    [
        ("smollm3", "no_rope_layers", [1, 1, 1, 0, 1], {"no_rope_layers": [1, 0, 1]}),
        ("gemma2", "layer_types", ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"], {"sliding_window": 5}),
        ("gemma3_text", "layer_types", ["sliding_attention"] * 5, {"sliding_window": 5}),
        ("cohere2", "layer_types", ["sliding_attention"] * 3 + ["full_attention", "sliding_attention"], {"sliding_window": 5}),
        ("olmo3", "layer_types", ["sliding_attention"] * 3 + ["full_attention", "sliding_attention"], {"sliding_window": 5}),
        (
            "modernbert",
            "layer_types",
            ["full_attention", "sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
            {"local_attention": 6},
        ),
    ],
)
def test_lists_of_layers_go_with_the_layers_that_they_are_of(name, key, values, options):
    """The trap: as the class makes them for five layers they move logits."""
    options = (
        {"layer_types": ["full_attention", "sliding_attention", "full_attention"]} | options
        if key == "layer_types"
        else options
    )

    def anew(config):
        assert getattr(config, key) != values
        setattr(config, key, values)

    assert moved(name, lambda config: None, options) < 1e-11
    assert moved(name, anew, options) > 1e-2


def constants(family, config):
    """Epsilons, multipliers and caps of a configuration."""
    keys = {key for key in family.kept if isinstance(getattr(config, key, None), float)} | {*family.factors, *family.caps}
    return sorted(key for key in keys & {*family.kept} if getattr(config, key) is not None)


@pytest.mark.parametrize("name", FAMILIES)
def test_constants_stay_the_sources_and_others_would_move_logits(name):
    family = FAMILIES[name]
    others = OPTIONS[name][0] if name in ("granite", "cohere") else {}
    config = check.small_config(family, num_hidden_layers=1, **others)
    model = check.random_model(family, config, 1)
    plan = plan_of(config, {"hidden_size": 128})
    assert moved_by(plan, model) < 1e-11 * max(1.0, logits(model).abs().max().item())
    keys = constants(family, config)
    assert keys or name == "distilbert"  # Its epsilon is no key.
    for key in keys:
        value = getattr(config, key)
        assert getattr(plan.config, key) == value, key
        changed = copy.deepcopy(plan.config)
        setattr(changed, key, type(value)(2 * value) if key in (*family.factors, *family.caps) else 1e-2)
        assert moved_by(dataclasses.replace(plan, config=changed), model) > 1e-5, key


@pytest.mark.parametrize(
    ("name", "key"), [("modernbert", "global_attn_every_n_layers"), ("gemma3_text", "sliding_window_pattern")]
)
def test_an_interval_that_a_grown_list_of_layers_contradicts_is_left_out(name, key):
    family = FAMILIES[name]
    config = check.small_config(family, **{key: 3})

    def written(growth, **sizes):
        content = plan_of(config, sizes, growth).config.to_dict()
        assert family.config_class.from_dict(content).layer_types == content["layer_types"]
        return content

    assert written({}, hidden_size=128)[key] == 3
    repeated = written({"depth": "list", "layers": [0, 1, 2] * 2}, num_hidden_layers=6)
    assert repeated[key] == 3 and repeated["layer_types"] == config.layer_types * 2
    assert not {key, f"_{key}"} & written({"depth": "interleave"}, num_hidden_layers=5).keys()


@pytest.mark.parametrize("name", ["gemma2", "gemma3_text"])
def test_a_scale_of_embeddings_that_follows_the_width_is_made_up_for(name):
    """sqrt(D) of the target, and not the source's."""
    _, model, after, moved = grown(name, {"hidden_size": 96})
    assert moved < 1e-11
    after.model.embed_tokens.embed_scale.copy_(model.model.embed_tokens.embed_scale)
    assert (logits(after) - logits(model)).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("name", "tied", "sizes"),
    [
        *((name, False, {}) for name in DEEPENED),
        *((name, True, {}) for name in ("gpt2", "llama")),
        *((name, True, {"hidden_size": 96}) for name in ("gpt2", "gemma2", "olmo2")),
    ],
)
def test_logits_do_not_jump_when_what_is_silent_begins_to_train(name, tied, sizes):
    """Steps of Adam at 1e-4 move the grown model's logits of other tokens about as far as they move the source's."""
    family = FAMILIES[name]
    config = check.small_config(family, tie_word_embeddings=tied)
    model = check.random_model(family, config, 1)
    grown = deeper(family, config, model, **sizes)
    own, after = trained(model), trained(grown)
    assert after < 2 * own, (own, after)


def test_a_layer_that_is_silent_by_zero_writers_under_a_norm_would_jump():
    """The trap: the norm behind the branch blows the first update of a zero matrix up to full size."""
    family = FAMILIES["olmo2"]
    config = check.small_config(family, tie_word_embeddings=False)
    model = check.random_model(family, config, 1)
    own, grown = trained(model, 1), deeper(family, config, check.random_model(family, config, 1))
    with torch.no_grad():
        for layer in (1, 3, 5):
            added = grown.model.layers[layer]
            for writer, norm in (
                (added.self_attn.o_proj, added.post_attention_layernorm),
                (added.mlp.down_proj, added.post_feedforward_layernorm),
            ):
                assert not norm.weight.any()
                writer.weight.zero_()
                norm.weight.fill_(1.0)
    after = trained(grown, 1)
    assert after > 10 * own, (own, after)


def deeper(family, config, model, **sizes):
    """A model with a silent layer behind each of its own."""
    deeper = {key: 2 * getattr(config, key) for key in depth_keys(family.config_class)}
    return check.grown_model(plan_of(config, deeper | sizes, {"depth": "interleave"}), model)


def trained(model, steps=5):
    """By how much a logit of other tokens moves in steps of Adam at 1e-4, in the mean."""
    ids, others = (torch.randint(4, 61, (4, 24), generator=torch.Generator().manual_seed(seed)) for seed in (2, 3))
    read, others = map(family_of(model.config).inputs, (ids, others))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    with Float64Casts():
        before = model(**others).logits.detach()
        for _ in range(steps):
            optimizer.zero_grad()
            model(**read, labels=ids).loss.backward()
            optimizer.step()
        return (model(**others).logits.detach() - before).abs().mean().item()


@pytest.mark.parametrize("name", ["gpt2", "llama", "olmo2", "gemma2", "cohere"])
def test_layers_of_a_list_that_are_silent_keep_the_function_and_others_do_not(name):
    growth = {"depth": "list", "layers": [0, 0, 1, 2, 2]}
    for silent, exact in (([1, 4], True), ([1], False)):
        plan, _, _, moved = grown(name, {"num_hidden_layers": 5}, growth | {"silent": silent})
        assert (exactness(predict(plan)) is Exactness.EXACT) is exact is (moved < 1e-11), (silent, moved)
    with pytest.raises(UserError, match=r"growth\.silent: target layer 2 repeats no layer before it"):
        grown(name, {"num_hidden_layers": 5}, growth | {"silent": [2]})


def test_lists_of_a_targets_file_that_are_not_taken_are_told(tmp_path):
    family = FAMILIES["gemma2"]
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    config = check.small_config(family, layer_types=kinds, sliding_window=5)
    config.architectures = [family.model_class.__name__]
    check.random_model(family, config, 1).float().save_pretrained(tmp_path / "source")
    wanted = check.small_config(family, num_hidden_layers=5, sliding_window=5)
    wanted.architectures = config.architectures
    wanted.save_pretrained(tmp_path / "wanted")
    certificate = certified(tmp_path / "source", tmp_path / "wanted" / "config.json", {"depth": "interleave"}, "float32")
    assert any(choice.startswith("layer_types: a layer has what the source says") for choice in certificate["choices"])
    written = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert written["layer_types"] == [kinds[origin["source"]] for origin in certificate["layers"]]
