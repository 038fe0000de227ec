"""Streamed safetensors against transformers' own loading and saving."""

import json
import resource

import pytest
import torch
from safetensors import safe_open

from data_prep.errors import UserError
from pipeline.families import FAMILIES
from pipeline.growth import huggingface_sink
from pipeline.growth.huggingface import open_huggingface
from pipeline.growth.huggingface_sink import write_huggingface

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
    return {name: Whole(parameter.detach()) for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_from_pretrained_loads_what_was_written(tmp_path, tiny_model, family, tied, dtype, sharded):
    model = tiny_model(family, tied=tied)
    state = state_of(model)
    told = []
    shard_bytes = 20_000 * dtype.itemsize // 2 if sharded else 5 << 30
    write_huggingface(tmp_path, model.config, state, dtype, max_shard_bytes=shard_bytes, progress=told.append)
    assert (tmp_path / "model.safetensors.index.json").exists() == sharded
    loaded, info = FAMILIES[family].model_class.from_pretrained(tmp_path, dtype="auto", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    assert loaded.dtype == dtype
    for name, parameter in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter.to(dtype)), name
    assert (loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight) == tied
    assert sum(told) == sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize


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


def test_what_was_written_is_read_back(tmp_path, tiny_model):
    model = tiny_model("bert")
    write_huggingface(tmp_path, model.config, state_of(model), torch.float64, max_shard_bytes=50_000)
    state = open_huggingface(tmp_path).state
    for name, parameter in model.named_parameters():
        assert torch.equal(state[name].rows(0, parameter.shape[0]), parameter), name


def test_no_more_rows_than_a_chunk_are_asked_for_at_once(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr(huggingface_sink, "HOST_CHUNK_ELEMENTS", 100)
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


def test_a_full_disk_is_said_in_a_sentence(tmp_path, tiny_model):
    model = tiny_model("gpt2")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(UserError, match="make room or name another directory"):
            write_huggingface(tmp_path, model.config, state_of(model), torch.float32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
