"""T5: two stacks, of which one reads the other, against transformers' own class in float64."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM

from pipeline.common.errors import UserError
from pipeline.evaluation.encoding import open_tokenizer
from pipeline.families import FAMILIES, check_growth, scratch_config, target_config
from pipeline.flops.activations import activation_bytes
from pipeline.flops.counts import ForwardFlops
from pipeline.growth import probe
from pipeline.growth.huggingface import open_huggingface
from pipeline.growth.listing import listing
from pipeline.growth.offline import OfflineGrowth, Request
from pipeline.growth.reasons import Exactness, exactness, predict
from pipeline.recipe import GrowthConfig, ModelConfig, TargetConfig
from pipeline.report.card import Known, model_card
from tests.pipeline.families.grown import certified, logits, moved_by
from tests.pipeline.growth import check
from tests.pipeline.growth.check import plan_of

T5 = FAMILIES["t5"]
V11 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
EXACT = 1e-10
"""Of logits of order 10: scores that are not divided by sqrt(d) make steep softmaxes, and those make more of rounding."""


def small(**options):
    """An encoder of 3 layers and a decoder of 2."""
    config = check.small_config(T5, **options)
    config.architectures = [T5.model_class.__name__]
    return config, check.random_model(T5, config, 1)


def grown(config, model, sizes, **growth):
    """By how much logits move, and what was said of them."""
    plan = plan_of(config, sizes, growth)
    found = check.grown_model(plan, model)
    return (logits(found) - logits(model)).abs().max().item(), exactness(predict(plan)), found


@pytest.mark.parametrize("depth", ["interleave", "last_layer", "stack", "random"])
@pytest.mark.parametrize("sizes", [{"num_hidden_layers": 5}, {"num_decoder_layers": 5}])
def test_each_stack_grows_in_depth_by_itself(depth, sizes):
    config, model = small(**V11)
    moved, outcome, found = grown(config, model, sizes, depth=depth)
    assert (found.config.num_layers, found.config.num_decoder_layers) == (
        sizes.get("num_hidden_layers", 3),
        sizes.get("num_decoder_layers", 2),
    )
    exact = depth in ("interleave", "last_layer")
    assert outcome is (Exactness.EXACT if exact else Exactness.BY_DESIGN)
    assert (moved < EXACT) is exact


def test_a_list_names_the_layers_of_both_stacks_by_numbers_that_go_on():
    """Held against a stock model whose modules are copied by hand."""
    config, model = small(**V11)
    layers = [0, 2, 1, 1, 4, 3, 3]
    moved, outcome, found = grown(config, model, {"num_hidden_layers": 4, "num_decoder_layers": 3}, depth="list", layers=layers)
    assert outcome is Exactness.BY_DESIGN and moved > 1e-3
    stock = T5.model(found.config).double().eval()
    held, by_hand = model.state_dict(), {}
    for name in stock.state_dict():
        stack, *rest = name.split(".")
        origin = name
        if rest[0] == "block" and not name.endswith("relative_attention_bias.weight"):
            place = int(rest[1]) + (4 if stack == "decoder" else 0)
            origin = ".".join([stack, "block", str(layers[place] - (3 if stack == "decoder" else 0)), *rest[2:]])
        by_hand[name] = held[origin]
    stock.load_state_dict(by_hand)
    assert (logits(stock) - logits(found)).abs().max() < EXACT
    silent = grown(
        *(config, model, {"num_hidden_layers": 4, "num_decoder_layers": 4}),
        **{"depth": "list", "layers": [0, 1, 1, 2, 3, 3, 4, 4], "silent": [2, 5, 7]},
    )
    assert silent[:2] == (0.0, Exactness.EXACT)


@pytest.mark.parametrize("layers", [[0, 1, 2, 3, 3, 4, 4], [0, 1, 2, 2, 3, 4, 0], [0, 1, 2, {2: 0.5, 3: 0.5}, 3, 4, 4]])
def test_no_layer_of_one_stack_is_made_of_the_others(layers):
    config, model = small()
    with pytest.raises(UserError, match=r"growth\.layers: target layers [04] to [36] are of one stack, and the source's layer"):
        grown(config, model, {"num_hidden_layers": 4, "num_decoder_layers": 3}, depth="list", layers=layers)


@pytest.mark.parametrize("key", ["scale_decoder_outputs", "relative_attention_max_distance", "layer_norm_epsilon"])
def test_constants_stay_the_sources(key):
    config, model = small(**V11)
    plan = plan_of(config, {"hidden_size": 96})
    values = {"scale_decoder_outputs": True, "relative_attention_max_distance": 20, "layer_norm_epsilon": 1e-2}
    setattr(plan.config, key, values[key])
    assert moved_by(plan, model) > 1e-3
    with pytest.raises(UserError, match=rf"{key}: .* is not the source's .*, which growth keeps"):
        check_growth(config, plan.config, "target.")


def test_the_table_of_relative_positions_moves_with_the_heads():
    """A table whose columns are in another order than the heads is seen, by the derivation and by logits."""
    config, model = small(**V11)
    plan = plan_of(config, {"num_attention_heads": 8})
    name = "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    rows, columns = plan.index_maps[name]
    turned = dataclasses.replace(columns, indices=columns.indices.flip(0))
    other = dataclasses.replace(plan, index_maps={**plan.index_maps, name: (rows, turned)})
    assert moved_by(plan, model) < EXACT
    assert moved_by(other, model) > 1e-2


def published(directory, model, *, said, drop=(), more=None):
    """Files as they are published: config.json's `tie_word_embeddings` and `scale_decoder_outputs`, and tensors."""
    model.save_pretrained(directory)
    content = json.loads((directory / "config.json").read_text())
    content = {key: value for key, value in content.items() if key not in ("scale_decoder_outputs", "tie_word_embeddings")}
    (directory / "config.json").write_text(json.dumps(content | said))
    tensors = {name: tensor.clone() for name, tensor in load_file(directory / "model.safetensors").items()}
    held = model.state_dict()
    tensors |= {name: held[name].clone() if name in held else torch.randn(32, 4) for name in more or ()}
    save_file({name: tensor for name, tensor in tensors.items() if name not in drop}, directory / "model.safetensors")


UNREAD = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
EMBEDDED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
FORMS = {
    "v1.1": (V11, {"said": {"tie_word_embeddings": False}}),
    "v1.1 of transformers 5": (V11, {"said": {"tie_word_embeddings": True, "scale_decoder_outputs": False}}),
    "v1.1 with every name": (V11, {"said": {"tie_word_embeddings": False}, "more": EMBEDDED}),
    "v1.1 without shared": (V11, {"said": {"tie_word_embeddings": False}, "more": EMBEDDED[:1], "drop": ("shared.weight",)}),
    "the first T5": ({}, {"said": {}}),
    "the first T5 with every name": ({}, {"said": {}, "more": (*EMBEDDED, "lm_head.weight", UNREAD)}),
    "an output of its own beside true": (
        {"tie_word_embeddings": False, "scale_decoder_outputs": True},
        {"said": {"tie_word_embeddings": True}},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_published_files_are_read_grown_and_written_as_transformers_has_them(tmp_path, form):
    options, files = FORMS[form]
    config, model = small(**options)
    published(tmp_path / "source", model, **files)
    target = {"hidden_size": 96, "num_attention_heads": 8, "num_hidden_layers": 4, "num_decoder_layers": 3}
    certificate = certified(tmp_path / "source", target, {}, "float64")
    assert certificate["verdict"] == "exact" and certificate["measured_agrees"]
    assert certificate["target"]["num_decoder_layers"] == 3 and "max_position_embeddings" not in certificate["target"]
    card = model_card(Known(config, "float64", "python launch/grow.py", certificates=[certificate]))
    assert (
        "# t5, 3 + 2 layers x 64" in card
        and "decoder layers 2 -> 3" in card
        and "AutoModelForSeq2SeqLM.from_pretrained" in card
    )
    source, written = (
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path / place, dtype=torch.float64, attn_implementation="eager").eval()
        for place in ("source", "out")
    )
    assert (logits(source) - logits(model)).abs().max() < EXACT, "the files are not the model that was meant"
    assert (logits(written) - logits(source)).abs().max() < EXACT
    assert (written.lm_head.weight is written.shared.weight) is config.tie_word_embeddings
    assert written.encoder.embed_tokens.weight is written.shared.weight is written.decoder.embed_tokens.weight


def test_embeddings_that_differ_are_refused(tmp_path):
    _, model = small(**V11)
    published(tmp_path, model, said={}, more=EMBEDDED)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[EMBEDDED[1]][3, 5] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"'decoder\.embed_tokens\.weight' differs from 'shared\.weight'"):
        open_huggingface(tmp_path)


def test_a_sample_of_layers_is_taken_of_each_stack(tmp_path, monkeypatch):
    _, model = small(**V11, num_hidden_layers=5, num_decoder_layers=4)
    model.save_pretrained(tmp_path)
    source = open_huggingface(tmp_path)
    monkeypatch.setattr(probe, "WHOLE_PARAMETERS", 0)
    plan = plan_of(source.config, {"hidden_size": 96, "num_decoder_layers": 6})
    measured = probe.compare(source, plan, plan.config)
    assert measured["source_layers"] == [0, 2, 4, 5, 6, 8]
    assert [plan.layers[layer].source for layer in measured["target_layers"]] == [0, 2, 4, 5, 5, 6, 8]
    assert measured["max_logit_difference"] < EXACT


def test_what_the_pipeline_does_not_do_is_refused_before_anything_is_done(tmp_path):
    _, model = small(**V11)
    model.save_pretrained(tmp_path / "source")
    grow = (TargetConfig(dropout=None), GrowthConfig(), 1)
    says = "t5 learns by span corruption"
    for options, form, key in (({}, "zero3", "format"), ({"optimizer_state": "grow"}, "hf", r"growth\.optimizer_state")):
        request = Request(tmp_path / "source", grow[0], GrowthConfig(**options), 1, form, None, None, tmp_path / "out")
        with pytest.raises(UserError, match=f"^{key}: {says}"):
            OfflineGrowth(request)
    with pytest.raises(UserError, match=says):
        open_tokenizer(tmp_path / "source", model.config)
    with pytest.raises(UserError, match=rf"^source\.model\.family: {says}"):
        scratch_config(ModelConfig(family="t5", hidden_size=32, num_hidden_layers=2, num_attention_heads=4), 50, 0, 16)
    request = Request(tmp_path / "source", *grow, "hf", None, None, tmp_path / "out")
    said = listing(OfflineGrowth(request, preview=True))
    assert "parameters)" in said and "ZeRO" not in said and "memory" not in said


def test_nothing_counts_a_decoder_as_the_model():
    config, _ = small()
    with pytest.raises(ValueError, match="too many values"):
        ForwardFlops.of(config)
    with pytest.raises(ValueError, match="too many values"):
        activation_bytes(T5, config, 8, 16, scored=16, dtype=torch.float32)


@pytest.mark.parametrize(
    ("name", "sizes", "says"),
    [
        ("t5", {"max_position_embeddings": 64}, "target.max_position_embeddings: t5 has no such size"),
        ("llama", {"num_decoder_layers": 4}, "target.num_decoder_layers: llama has no such size"),
        ("t5", {"num_decoder_layers": 1}, "target.num_decoder_layers: 1 is smaller than the source's 2"),
        ("t5", {"num_key_value_heads": 8}, "target.num_key_value_heads: t5 has as many as num_attention_heads"),
    ],
)
def test_a_size_that_a_model_has_not_is_refused(name, sizes, says):
    with pytest.raises(UserError) as error:
        target_config(check.small_config(FAMILIES[name]), TargetConfig(**sizes))
    assert str(error.value).startswith(says)
