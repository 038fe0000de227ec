"""Tied or not is what the tensors say: against what transformers computes with the same directory, in float64."""

import json

import pytest
import torch
from safetensors.torch import save_file

from pipeline.families import FAMILIES
from pipeline.growth import streaming
from pipeline.growth.float64_casts import Float64Casts
from pipeline.growth.huggingface import MappedTensor
from pipeline.growth.output_matrix import settle_output
from pipeline.growth.sources import open_source
from tests.pipeline.growth.directories import as_bin, in_shards
from tests.pipeline.growth.models import FAMILY_NAMES, family_named, offline, small_model, streamed_logits, tokens

ENCODERS = ("bert", "bert with pairs", "roberta")
ROUNDING = 1e-10
"""Both sides compute the same numbers in float64, in another order."""


def saved(directory, name, *, said, change, form="safetensors"):
    """Save a small model in float32 with the tensors that `change` makes of its own, all spelled out; return its family."""
    model, family = small_model(name).float(), family_named(name)
    directory.mkdir(exist_ok=True)
    tensors = {key: tensor.clone() for key, tensor in model.state_dict().items() if not family.buffers.search(key)}
    torch.manual_seed(5)
    change(tensors, family)
    config = model.config.to_dict() | {"tie_word_embeddings": said, "architectures": [family.model_class.__name__]}
    (directory / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, directory / "model.safetensors", {"format": "pt"})
    if form == "bin":
        as_bin(directory)
    elif form == "sharded":
        in_shards(directory, index=True)
    return family


def stock_logits(directory, family):
    model = family.model_class.from_pretrained(directory, dtype=torch.float64, attn_implementation="sdpa").eval()
    with torch.no_grad(), Float64Casts():
        return model(input_ids=tokens())[family.logits]


def same_as_stock(source, directory):
    moved = streamed_logits(source, tokens()) - stock_logits(directory, source.family)
    return moved.abs().max().item() <= ROUNDING


def own_matrix(tensors, family):
    tensors[family.output] = torch.randn_like(tensors[family.words]) * 0.3


def equal_matrix(tensors, family):
    tensors[family.output] = tensors[family.words].clone()


def no_matrix(tensors, family):
    del tensors[family.output]


def no_embedding(tensors, family):
    del tensors[family.words]


def nearly_equal(tensors, family):
    """Differs in the last row alone."""
    equal_matrix(tensors, family)
    tensors[family.output][-1, 3] += 0.5


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *((name, "safetensors") for name in FAMILY_NAMES),
        *((name, form) for name in ("bert", "qwen2") for form in ("bin", "sharded")),
    ],
)
@pytest.mark.parametrize(
    ("said", "change", "tied"),
    [
        (True, own_matrix, False),
        (True, nearly_equal, False),
        (True, equal_matrix, True),
        (True, no_matrix, True),
        (True, no_embedding, True),
        (False, own_matrix, False),
        (False, equal_matrix, True),
    ],
)
def test_the_output_matrix_is_what_transformers_computes_with(tmp_path, name, said, change, tied, form):
    family = saved(tmp_path, name, said=said, change=change, form=form)
    source = open_source(tmp_path)
    assert source.config.tie_word_embeddings is tied
    assert same_as_stock(source, tmp_path)
    mentions = [remark for remark in source.remarks if family.output in remark]
    assert bool(mentions) == (said is not tied or change is no_embedding), source.remarks


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_matrix_that_is_not_there_is_tied_though_the_configuration_says_not(tmp_path, name):
    """transformers would draw one at random: the reference is the same directory, said to be tied."""
    saved(tmp_path, name, said=False, change=no_matrix)
    source = open_source(tmp_path)
    assert source.config.tie_word_embeddings is True
    assert any("is not among the weights: the output matrix is taken as tied" in remark for remark in source.remarks)
    saved(tmp_path, name, said=True, change=no_matrix)
    assert same_as_stock(source, tmp_path)


def own_bias(tensors, family):
    tensors[family.output_bias] = torch.randn_like(tensors[family.head_alias[family.output_bias]])


def no_bias(tensors, family):
    del tensors[family.output_bias]


def no_shared_bias(tensors, family):
    own_bias(tensors, family)
    del tensors[family.head_alias[family.output_bias]]


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("change_matrix", [own_matrix, equal_matrix, no_matrix])
@pytest.mark.parametrize("change_bias", [own_bias, no_bias, no_shared_bias])
@pytest.mark.parametrize("name", ENCODERS)
def test_the_outputs_bias_is_what_transformers_computes_with(tmp_path, name, change_bias, change_matrix, said):
    def change(tensors, family):
        change_matrix(tensors, family)
        change_bias(tensors, family)

    family = saved(tmp_path, name, said=said, change=change)
    source = open_source(tmp_path)
    assert source.config.tie_word_embeddings is (change_matrix is not own_matrix)
    if not said and (change_matrix is no_matrix or change_bias is no_bias):
        # transformers draws what is not there: the reference is the same directory, said to be tied.
        assert any("is not among the weights" in remark for remark in source.remarks)
        saved(tmp_path, name, said=True, change=change)
    assert same_as_stock(source, tmp_path)
    if change_bias is own_bias and change_matrix is not own_matrix:
        assert any(remark.startswith(f"{family.output_bias} differs from") for remark in source.remarks)


@pytest.mark.parametrize(
    ("said", "change"), [(True, own_matrix), (False, equal_matrix), (False, no_matrix), (False, own_matrix)]
)
@pytest.mark.parametrize(
    ("name", "target"), [*((name, {"hidden_size": 64}) for name in FAMILY_NAMES), ("bert", {}), ("gpt2", {}), ("qwen3", {})]
)
def test_what_is_written_says_what_is_true_and_computes_the_same(tmp_path, name, said, change, target):
    saved(tmp_path / "source", name, said=said, change=change)
    source = open_source(tmp_path / "source")
    growth = offline(tmp_path / "source", tmp_path / "out", target, {"width": "exact_aki"}, seed=3, dtype="float32")
    certificate = growth.execute(lambda _: {})
    assert certificate["verdict"] == "exact" and certificate["remarks"] == list(source.remarks)
    assert (
        json.loads((tmp_path / "out/config.json").read_text()).get("tie_word_embeddings") == source.config.tie_word_embeddings
    )
    written = stock_logits(tmp_path / "out", source.family)
    # The grown weights are rounded to float32.
    assert torch.allclose(written, streamed_logits(source, tokens()), atol=2e-4 if target else ROUNDING)
    again = open_source(tmp_path / "out")
    assert again.config.tie_word_embeddings == source.config.tie_word_embeddings and again.remarks == ()


def test_matrices_are_compared_a_few_rows_at_a_time(monkeypatch):
    monkeypatch.setattr(streaming, "HOST_CHUNK_ELEMENTS", 64)

    class Watched(MappedTensor):
        most = 0

        def rows(self, start, stop):
            Watched.most = max(Watched.most, stop - start)
            return super().rows(start, stop)

    words = torch.randn(100, 32)
    for own, tied in ((words.clone(), True), (words + 1, False)):
        state = {"model.embed_tokens.weight": Watched(words), "lm_head.weight": Watched(own)}
        assert settle_output(FAMILIES["llama"], True, state, complete=True).tied is tied
    assert Watched.most == 2


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float64])
def test_matrices_of_two_dtypes_are_equal_where_their_values_are(stored):
    words = torch.randn(20, 8).bfloat16()
    state = {"model.embed_tokens.weight": MappedTensor(words.float()), "lm_head.weight": MappedTensor(words.to(stored))}
    assert settle_output(FAMILIES["llama"], False, state, complete=True).tied
    wide = {"model.embed_tokens.weight": MappedTensor(words), "lm_head.weight": MappedTensor(words.double() + 1e-12)}
    assert not settle_output(FAMILIES["llama"], True, wide, complete=True).tied
