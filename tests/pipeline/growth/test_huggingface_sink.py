"""Streamed safetensors against transformers' own loading and saving."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pipeline.common.errors import UserError
from pipeline.families import FAMILIES, graph_of, held_by, sizes_of, target_config
from pipeline.growth import huggingface_sink, streaming
from pipeline.growth.huggingface import MappedTensor, open_huggingface
from pipeline.growth.huggingface_sink import write_huggingface
from pipeline.growth.plan import plan_growth
from pipeline.recipe import GrowthConfig, TargetConfig
from tests.damages import full_disk

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


class Whole:
    """A tensor in memory."""

    def __init__(self, tensor):
        self.tensor = tensor
        self.shape = tuple(tensor.shape)
        self.largest = 0

    def rows(self, start, stop):
        self.largest = max(self.largest, (stop - start) * max(1, self.tensor[0].numel()))
        return self.tensor[start:stop]


def state_of(model):
    return {name: Whole(tensor.detach()) for name, tensor in held_by(model).items()}


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_from_pretrained_loads_what_was_written(tmp_path, tiny_model, family, tied, dtype, sharded, monkeypatch):
    model = tiny_model(family, tied=tied)
    state = state_of(model)
    written = []
    if sharded:
        monkeypatch.setattr(huggingface_sink, "MAX_SHARD_BYTES", 20_000 * dtype.itemsize // 2)
    write_huggingface(tmp_path, model.config, state, dtype, progress=written.append)
    assert (tmp_path / "model.safetensors.index.json").exists() == sharded
    loaded, info = FAMILIES[family].model_class.from_pretrained(tmp_path, dtype="auto", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    assert loaded.dtype == dtype
    kept, stored = held_by(loaded), {}
    for name, tensor in held_by(model).items():
        # A class keeps its buffers in float32 or wider.
        stored[name] = dtype if isinstance(tensor, torch.nn.Parameter) else torch.promote_types(dtype, torch.float32)
        assert torch.equal(kept[name], tensor.to(stored[name])), name
    assert (loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight) == tied
    assert sum(written) == sum(tensor.numel() * stored[name].itemsize for name, tensor in held_by(model).items())


def test_the_files_hold_what_save_pretrained_writes(tmp_path, tiny_model):
    model = tiny_model("gpt2").float()
    model.save_pretrained(tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    write_huggingface(tmp_path / "ours", model.config, state_of(model), torch.float32)
    files = [safe_open(tmp_path / side / "model.safetensors", "pt") for side in ("theirs", "ours")]
    assert set(files[0].keys()) == set(files[1].keys())
    assert files[0].metadata() == files[1].metadata()
    theirs, ours = (json.loads((tmp_path / side / "config.json").read_text()) for side in ("theirs", "ours"))
    assert theirs == ours


def test_what_was_written_is_read_back(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr(huggingface_sink, "MAX_SHARD_BYTES", 50_000)
    model = tiny_model("bert")
    write_huggingface(tmp_path, model.config, state_of(model), torch.float64)
    state = open_huggingface(tmp_path).state
    for name, parameter in model.named_parameters():
        assert torch.equal(state[name].rows(0, parameter.shape[0]), parameter), name


def test_no_more_rows_than_a_chunk_are_asked_for_at_once(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr(streaming, "HOST_CHUNK_ELEMENTS", 100)
    model = tiny_model("gpt2")
    state = state_of(model)
    write_huggingface(tmp_path, model.config, state, torch.float32)
    for name, tensor in state.items():
        width = tensor.tensor[0].numel()
        # A row longer than a chunk comes alone.
        assert tensor.largest <= max(100, width), name


def test_a_value_beyond_the_dtype_is_refused(tmp_path, tiny_model):
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.transformer.h[1].ln_2.weight[3] = 1e5
    with pytest.raises(UserError, match=r"transformer\.h\.1\.ln_2\.weight: 1e\+05 is beyond the range of float16"):
        write_huggingface(tmp_path, model.config, state_of(model), torch.float16)
    write_huggingface(tmp_path, model.config, state_of(model), torch.bfloat16)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_values_that_are_no_numbers_are_refused(value, dtype):
    """As a large `noise` or `repeat_scale` makes them of a source that holds none."""
    with pytest.raises(UserError, match="w: growth makes values of it that are NaN or infinity"):
        streaming.stored_as(torch.tensor([1.0, value, -2.0]), dtype, "w")


def test_a_full_disk_is_said_in_a_sentence(tmp_path, tiny_model):
    model = tiny_model("gpt2")
    with full_disk(50_000), pytest.raises(UserError, match="free disk space or name another directory"):
        write_huggingface(tmp_path, model.config, state_of(model), torch.float32)


def grown_by_depth(model, directory, dtype):
    """A model saved in `dtype`, and twice its layers, made of the source's in turn."""
    model.to(dtype)
    for tensor in held_by(model).values():
        # As a class keeps its buffers.
        kept = tensor.dtype if isinstance(tensor, torch.nn.Parameter) else torch.promote_types(dtype, torch.float32)
        tensor.data = tensor.data.to(kept)
    model.save_pretrained(directory)
    source = open_huggingface(directory)
    sizes, numbers = sizes_of(source.config), source.family.graph(source.config).ranges
    decoder = None if sizes.num_decoder_layers is None else 2 * sizes.num_decoder_layers
    target = TargetConfig(num_hidden_layers=2 * sizes.num_hidden_layers, num_decoder_layers=decoder)
    target = target_config(source.config, target)
    growth = GrowthConfig(depth="list", layers=[layer for stack in numbers for layer in [*stack] * 2])
    return source, target, plan_growth(source.config, target, growth, 1).grow(source.state)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_only_layers_repeat_is_written_as_it_is_stored(tmp_path, tiny_model, family, dtype, monkeypatch):
    model = tiny_model(family, layers=2)
    source, target, grown = grown_by_depth(model, tmp_path / "source", dtype)
    buffers = {name for name, tensor in graph_of(target).tensors().items() if tensor.buffer}
    dtypes = {name: torch.promote_types(dtype, torch.float32) if name in buffers else dtype for name in grown}
    computed = {name: tensor.rows(0, tensor.shape[0]).to(dtypes[name]) for name, tensor in grown.items()}

    def refused(self, start, stop):
        raise AssertionError("stored rows are converted")

    monkeypatch.setattr(MappedTensor, "rows", refused)
    (tmp_path / "out").mkdir()
    write_huggingface(tmp_path / "out", target, grown, dtype)
    written = load_file(tmp_path / "out/model.safetensors")
    assert written.keys() == computed.keys() == grown.keys()
    stored = load_file(tmp_path / "source/model.safetensors")
    for name, tensor in written.items():
        assert torch.equal(tensor.view(torch.uint8), computed[name].view(torch.uint8)), name
        assert source.state.get(name) is None or torch.equal(tensor.view(torch.uint8), stored[name].view(torch.uint8)), name


@pytest.mark.parametrize(("stored", "written"), [(a, b) for a in DTYPES for b in DTYPES if a is not b])
def test_rows_that_are_stored_in_another_dtype_are_converted_once(tmp_path, tiny_model, stored, written):
    _, target, grown = grown_by_depth(tiny_model("llama", layers=2), tmp_path / "source", stored)
    assert all(tensor.passed_on.dtype is stored for tensor in grown.values())
    (tmp_path / "out").mkdir()
    write_huggingface(tmp_path / "out", target, grown, written)
    for name, tensor in load_file(tmp_path / "out/model.safetensors").items():
        # From float64 through the float32 that a growth is computed in unless it is written in float64.
        assert tensor.dtype is written and torch.equal(tensor, grown[name].rows(0, tensor.shape[0]).to(written)), name


@pytest.mark.parametrize("growth", [{"width": "fpi"}, {"width": "direct_copy"}, {"width": "zero_pad", "noise": 0.1}])
def test_no_row_of_a_wider_tensor_is_taken_for_a_stored_one(tmp_path, tiny_model, growth):
    model = tiny_model("gpt2").to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    source = open_huggingface(tmp_path)
    target = target_config(source.config, TargetConfig(hidden_size=48))
    grown = plan_growth(source.config, target, GrowthConfig(**growth), 1).grow(source.state)
    assert all(tensor.passed_on is None or tensor.shape == source.state[name].shape for name, tensor in grown.items())
    assert any(tensor.passed_on is None for tensor in grown.values())
