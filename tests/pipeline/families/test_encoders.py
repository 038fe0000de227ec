"""DistilBERT and ModernBERT: what is of them alone, against their stock classes in float64."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.common.errors import UserError
from pipeline.families import FAMILIES, read_config
from pipeline.growth.reasons import Exactness, exactness, predict
from pipeline.growth.sources import open_source
from pipeline.operators import WIDTH
from pipeline.training.attention import within_documents
from tests.pipeline.families.grown import PUBLISHED, moved_by, saved
from tests.pipeline.families.grown import grown as grown_of
from tests.pipeline.growth import check
from tests.pipeline.growth.check import IDS, plan_of

MODERNBERT = FAMILIES["modernbert"]


def grown(sizes, options, **keys):
    """Return a ModernBERT's plan, and the most that a logit moves."""
    plan, _, _, moved = grown_of("modernbert", sizes, options, **keys)
    return plan, moved


@pytest.mark.parametrize("norm_bias", [False, True])
@pytest.mark.parametrize("width", [name for name in WIDTH if name != "hypercloning"])
def test_no_operator_is_exact_for_modernbert_off_whole_multiples(width, norm_bias):
    """The trap: the norm behind the embeddings writes what new channels hold, and cannot write the mean of the others."""
    options = {"width": width, "scaled": True} if width == "zero_pad" else {"width": width}
    plan, moved = grown({"hidden_size": 96}, options, norm_bias=norm_bias, intermediate_size=96)
    assert exactness(predict(plan)) is not Exactness.EXACT
    assert moved > 1e-2


@pytest.mark.parametrize("width", ["auto", "average_pad", "fpi", "hypercloning", "nai", "sqrt_count"])
def test_copies_are_exact_for_modernbert_at_whole_multiples(width):
    for sizes in ({"hidden_size": 128}, {"hidden_size": 192, "intermediate_size": 192}):
        plan, moved = grown(sizes, {"width": width}, norm_bias=True, classifier_bias=True, intermediate_size=96)
        assert exactness(predict(plan)) is Exactness.EXACT
        assert moved < 1e-11


def test_a_scale_does_not_pass_the_activation_of_a_head():
    """h / sqrt(C) in the transform would come out of gelu as something else."""
    plan, _ = grown({"hidden_size": 96}, {"width": "sqrt_count"})
    assert "activated" in {departure.cause.code for departure in plan.departures if departure.tensor == "head.dense.weight"}


@pytest.mark.parametrize(
    ("layers", "silent", "codes"),
    [
        ([0, 0, 1, 2], [1], set()),
        ([0, 1, 2, 2], [3], set()),
        ([0, 0, 1, 2], [], {"repeated_layers", "layer_kinds_differ"}),
        ([1, 0, 2], [], {"layers_reordered", "layer_kinds_differ"}),
        ([0, 2, 1], [], {"layers_reordered"}),
    ],
)
def test_a_norm_that_the_first_layer_lacks_is_part_of_a_layers_kind(layers, silent, codes):
    options = {"depth": "list", "layers": layers, "silent": silent}
    plan, moved = grown({"num_hidden_layers": len(layers)}, options, norm_bias=True)
    assert {departure.cause.code for departure in plan.departures} == codes
    assert (moved < 1e-11) is (codes == set())
    for layer, origin in enumerate(layers):
        name = f"model.layers.{layer}.attn_norm.weight"
        assert (name in plan.tensors) is (layer > 0)
        # The model's own initialization, where the source's layer has no norm.
        assert (name in plan.index_maps) is (layer > 0 and origin > 0)


def test_no_layer_is_added_before_modernberts_first():
    with pytest.raises(UserError, match=r"growth\.silent: target layer 0 repeats no layer before it"):
        grown({"num_hidden_layers": 4}, {"depth": "list", "layers": [0, 0, 1, 2], "silent": [0]})


def test_rotary_sets_and_layer_types_of_an_older_modernbert_file_are_read(tmp_path):
    """ModernBERT-base's keys as published, its sizes cut down."""
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED["ModernBERT base cut down"]))
    config = read_config(tmp_path / "config.json")
    assert config.layer_types == ["full_attention", "sliding_attention", "full_attention"]
    thetas = {kind: rope["rope_theta"] for kind, rope in config.rope_parameters.items()}
    assert thetas == {"full_attention": 160000.0, "sliding_attention": 10000.0}
    plan = plan_of(config, {"num_hidden_layers": 5})
    assert plan.config.layer_types == ["full_attention"] * 2 + ["sliding_attention"] * 2 + ["full_attention"]


@pytest.mark.parametrize(("name", "output"), [("distilbert", "vocab_projector.weight"), ("modernbert", "decoder.weight")])
def test_an_output_matrix_of_its_own_beside_a_file_that_says_tied_is_the_models(tmp_path, name, output):
    """The trap: transformers 5 computes with the matrix that is there."""
    family = FAMILIES[name]
    saved(tmp_path, name, tie_word_embeddings=True, architectures=[family.model_class.__name__])
    for own in (False, True):
        if own:
            tensors = load_file(tmp_path / "model.safetensors")
            tensors[output] = torch.randn(61, 64, dtype=torch.float64)
            save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
        source = open_source(tmp_path)
        assert source.config.tie_word_embeddings is not own
        assert (output in source.state) is own
        theirs = family.model_class.from_pretrained(tmp_path, dtype=torch.float64, attn_implementation="eager").eval()
        assert moved_by(plan_of(source.config, {"hidden_size": 128, "intermediate_size": 160}), theirs) < 1e-11


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_document_of_a_modernbert_keeps_its_window(attention):
    config = check.small_config(MODERNBERT, local_attention=6, num_hidden_layers=3)
    model = check.random_model(MODERNBERT, config, 1)
    model.set_attn_implementation(attention)
    apart = within_documents(MODERNBERT, config, torch.tensor([[0] * 10 + [1] * 14] * 2), torch.float64)
    with torch.no_grad():
        together = model(input_ids=IDS, **apart).logits[:, 10:]
        alone = model(input_ids=IDS[:, 10:]).logits
        wide = model(input_ids=IDS, **apart | {"attention_mask": dict.fromkeys(apart["attention_mask"], full(apart))}).logits
    # Eager attention passes through float32.
    assert torch.allclose(together, alone, rtol=0, atol=1e-5)
    assert (together - wide[:, 10:]).abs().max() > 1e-2, "or the window is no part of the mask"


def full(apart):
    return apart["attention_mask"]["full_attention"]
