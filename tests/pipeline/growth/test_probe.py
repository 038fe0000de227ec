"""Streamed logits against plain Hugging Face models in float64, and what a comparison finds."""

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from pipeline.families import FAMILIES, family_of, target_config
from pipeline.growth import probe as probing
from pipeline.growth import streaming
from pipeline.growth.certificate import certify
from pipeline.growth.float64_casts import Float64Casts
from pipeline.growth.huggingface import open_huggingface
from pipeline.growth.inspection import inspect
from pipeline.growth.plan import plan_growth
from pipeline.growth.probe import compare
from pipeline.growth.streamed_model import streamed_model
from pipeline.recipe import GrowthConfig, TargetConfig
from tests.fp16 import FP16
from tests.pipeline.growth import check
from tests.pipeline.growth.models import FAMILY_NAMES, small_model, state_of, streamed_logits, tokens

ROUNDING = 1e-12
"""Float64 logits of order 1 to 10 differ by the order of summation alone, 1e-14."""


@pytest.fixture
def saved(tmp_path, tiny_model):
    def save(family, **options):
        model = tiny_model(family, **options)
        model.save_pretrained(tmp_path)
        return model, open_huggingface(tmp_path)

    return save


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_what_is_read_to_inspect_and_to_compare_is_counted(saved, family, metered):
    _, source = saved(family, tied=False)
    inspect(source.state, "source")
    size, advances = metered["source: looking through the values"]
    assert sum(advances) == size == sum(torch.Size(tensor.shape).numel() for tensor in source.state.values())
    target = target_config(source.config, TargetConfig(num_hidden_layers=source.config.num_hidden_layers + 1))
    plan = plan_growth(source.config, target, GrowthConfig(width="fpi", depth="stack"), 0)
    compare(source, plan, target)
    size, advances = metered["comparing the logits before and after"]
    # Of embeddings only the rows that are looked up are read, some of them twice.
    assert 0.5 * size < sum(advances) < 1.2 * size
    assert len(advances) > 20


class Counted:
    """A tensor that remembers how many of its elements were read at once."""

    def __init__(self, tensor):
        self.tensor, self.shape, self.most = tensor, tensor.shape, 0

    def rows(self, start, stop):
        rows = self.tensor.rows(start, stop)
        self.most = max(self.most, rows.numel())
        return rows


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_streamed_logits_are_the_whole_models_and_no_large_tensor_is_whole(saved, family, tied, monkeypatch):
    # Chunks of a few rows, of which the last is shorter.
    monkeypatch.setattr(streaming, "HOST_CHUNK_ELEMENTS", 200)
    model, source = saved(family, tied=tied)
    state = {name: Counted(tensor) for name, tensor in source.state.items()}
    input_ids = torch.arange(24).reshape(2, 12) * 7 % model.config.vocab_size
    with torch.no_grad(), Float64Casts():
        expected = model(**source.family.inputs(input_ids)).logits
    logits = streamed_logits(replace(source, state=state), input_ids)
    assert logits.dtype == torch.float64
    assert (logits - expected).abs().max() < ROUNDING
    single = streamed_logits(source, input_ids, torch.float32)
    # 24 bits, a few dozen products.
    assert single.dtype == torch.float32 and (single - expected).abs().max() < 1e-4
    for name, tensor in state.items():
        assert tensor.most <= max(200, torch.Size(tensor.shape[1:]).numel()) or len(tensor.shape) == 1, name
        # Not every expert is chosen.
        assert tensor.most > 0 or ".experts." in name, f"{name} is never read"


def test_building_a_streamed_model_leaves_torch_as_it_was(saved):
    _, source = saved("gpt2")
    streamed_logits(source, torch.zeros(1, 2, dtype=torch.long))
    assert not torch.nn.Linear(2, 3).weight.is_meta


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, FP16])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_narrow_precision_rounds_as_hugging_faces_model_does_in_it(family, dtype, attention):
    """Else a growth would be blamed for the difference. Kernels may sum up in another order: a tenth of all rounding."""
    source = small_model(family)
    described = family_of(source.config)
    config = copy.deepcopy(source.config)
    config._attn_implementation = attention
    stock = described.model_class(config).eval()
    stock.load_state_dict(source.state_dict(), strict=False)
    stock.tie_weights()
    ids = tokens()
    with torch.no_grad():
        expected = stock.to(dtype)(input_ids=ids)[described.logits].double()
        seen, unrounded = (
            streamed_model(described, source.config, state_of(source), precision, attention)(input_ids=ids)[described.logits]
            for precision in (dtype, torch.float32)
        )
    assert seen.dtype is dtype
    rounding = (expected - unrounded.double()).square().mean().sqrt()
    assert (seen.double() - expected).square().mean().sqrt() < 0.1 * rounding


def grown(source, target, growth):
    config = target_config(source.config, TargetConfig(**target))
    plan = plan_growth(source.config, config, GrowthConfig(**growth), 0)
    return plan, config


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_exact_growth_of_narrow_weights_is_seen_to_be(tmp_path, tiny_model, family, dtype):
    """1/3 is no float32 number: an exact growth is exact in the wider dtype only."""
    tiny_model(family).to(dtype).save_pretrained(tmp_path)
    source = open_huggingface(tmp_path)
    assert compare(source, *grown(source, {"hidden_size": 96}, {"width": "fpi"}))["max_logit_difference"] < 1e-12


def test_an_exact_growth_is_seen_to_be(saved):
    _, source = saved("gpt2")
    measured = compare(
        source, *grown(source, {"hidden_size": 64, "num_hidden_layers": 5}, {"width": "fpi", "depth": "last_layer"})
    )
    assert measured["max_logit_difference"] < 1e-12
    assert abs(measured["loss_gap"]) < 1e-12
    assert measured["scored_tokens"] == 2 * 15  # 16 positions, of which the first has nothing before it
    assert measured["source_layers"] == [0, 1, 2] and measured["target_layers"] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_losses_are_hugging_faces_own(saved, family):
    model, source = saved(family)
    measured = compare(source, *grown(source, {"hidden_size": 48}, {"width": "fpi"}))
    input_ids = probing._window(source.family, source.config, source.config.vocab_size)
    with torch.no_grad():
        expected = model(input_ids=input_ids, labels=input_ids).loss.item()
    # Hugging Face takes the cross-entropy in float32.
    assert measured["source_loss"] == pytest.approx(expected, abs=1e-5)
    assert measured["loss_gap"] == measured["grown_loss"] - measured["source_loss"] != 0
    assert measured["max_logit_difference"] > 1e-3


def test_large_models_are_compared_in_a_few_layers(saved, monkeypatch):
    _, source = saved("gpt2", layers=7)
    target = {"hidden_size": 64, "num_hidden_layers": 12}
    whole = compare(source, *grown(source, target, {"width": "fpi", "depth": "last_layer"}))
    monkeypatch.setattr(probing, "WHOLE_PARAMETERS", 1)
    sampled = compare(source, *grown(source, target, {"width": "fpi", "depth": "last_layer"}))
    assert sampled["source_layers"] == [0, 3, 6]
    assert sampled["target_layers"] == [0, 3, 6, 7]
    assert sampled["max_logit_difference"] < 1e-12
    assert sampled["source_loss"] != whole["source_loss"]
    inexact = compare(source, *grown(source, target, {"width": "fpi", "depth": "stack"}))
    assert inexact["target_layers"] == [0, 3, 6, 8, 11]
    assert inexact["max_logit_difference"] > 1e-3


def test_models_that_threads_construct_at_once_are_streamed_and_others_hold_their_weights(saved):
    """Beside a run's first steps the source is measured in one thread and compared in another."""
    (_, source), register = saved("gpt2"), torch.nn.Module.register_parameter
    with ThreadPoolExecutor(8) as threads:
        streamed = [
            threads.submit(streamed_model, source.family, source.config, source.state, torch.float32) for _ in range(40)
        ]
        plain = [threads.submit(torch.nn.Linear, 3, 5) for _ in range(400)]
    assert not any(parameter.is_meta for made in plain for parameter in made.result().parameters())
    assert all(parameter.is_meta == (parameter.ndim > 1) for made in streamed for parameter in made.result().parameters())
    assert torch.nn.Module.register_parameter is register


def test_a_model_that_makes_much_of_rounding_is_told_from_a_growth_that_is_wrong(tmp_path):
    """Steep softmaxes: growths that are exact move logits by up to 2e-11, and wrong weights by far more."""
    described = FAMILIES["t5"]
    config = check.small_config(described, hidden_size=256, num_attention_heads=16)
    check.random_model(described, config, 1).save_pretrained(tmp_path)
    source = open_huggingface(tmp_path)
    plan, target = grown(source, {"hidden_size": 384}, {})
    measured = compare(source, plan, target)
    assert 1e-11 < measured["max_logit_difference"] < 1e-14 * measured["sensitivity"]
    assert certify(plan, "", "", measured)["measured_agrees"]
    assert not certify(plan, "", "", measured | {"max_logit_difference": 1e-12 * measured["sensitivity"]})["measured_agrees"]
