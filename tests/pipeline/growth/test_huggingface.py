"""What is refused of a Hugging Face directory, and what is read: against tensors saved by others' code."""

import os

import pytest
import torch

from pipeline.common.errors import UserError
from pipeline.growth.huggingface import open_huggingface
from pipeline.growth.inspection import inspect
from tests.pipeline.growth.directories import as_bin, describe, in_shards, rewrite
from tests.pipeline.growth.models import small_model, whole

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.fixture
def saved(tmp_path, tiny_model):
    tiny_model("gpt2").float().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("dtype", DTYPES)
def test_pytorch_files_of_any_float_dtype_are_read(saved, dtype):
    def with_head(tensors):
        return {
            name: tensor.to(dtype) for name, tensor in {**tensors, "lm_head.weight": tensors["transformer.wte.weight"]}.items()
        }

    tensors = as_bin(saved, with_head)
    state = open_huggingface(saved).state
    assert state.keys() == tensors.keys() - {"lm_head.weight"}
    for name, tensor in state.items():
        values = whole(tensor)
        assert values.dtype == torch.promote_types(dtype, torch.float32) and tensor.stored == dtype
        assert torch.equal(values, tensors[name].to(values.dtype)), name


def test_sharded_pytorch_files_are_read(saved):
    tensors, state = in_shards(saved, "bin", index=True), open_huggingface(saved).state
    assert all(torch.equal(whole(state[name]), tensors[name]) for name in tensors)
    (saved / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(UserError, match=r"pytorch_model-00002-of-00002\.bin: no such file, though .* names it"):
        open_huggingface(saved)


class Harmful:
    """What a pickle may bring along."""

    def __reduce__(self):
        return (print, ("code ran",))


def cut(directory, name):
    os.truncate(directory / name, (directory / name).stat().st_size - 100)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: as_bin(d, lambda tensors: {**tensors, "extra": Harmful()}), r"pytorch_model\.bin: holds more than tensors"),
        (lambda d: as_bin(d, _use_new_zipfile_serialization=False), r"pytorch_model\.bin: cannot be memory-mapped"),
        (lambda d: (as_bin(d), cut(d, "pytorch_model.bin")), r"pytorch_model\.bin: .*damaged"),
        (lambda d: cut(d, "model.safetensors"), r"model\.safetensors: .*damaged"),
        (
            lambda d: rewrite(d, lambda tensors: tensors | {"wte.weight": tensors["transformer.wte.weight"]}),
            r"wte\.weight' is there twice",
        ),
        (
            lambda d: small_model("bert").config.save_pretrained(d),
            r"model\.safetensors: tensor 'transformer\..*' is unknown to family bert",
        ),
        (
            lambda d: (d / "model.safetensors").unlink(),
            r"has no weights, neither model\.safetensors nor pytorch_model\.bin",
        ),
    ],
    ids=["code", "an old format", "cut off", "safetensors cut off", "twice", "of another family", "no weights"],
)
def test_what_cannot_be_read_is_refused_and_no_code_runs(saved, capsys, change, says):
    change(saved)
    with pytest.raises(UserError, match=says):
        open_huggingface(saved)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n_embd": "abc"}, r"n_embd: .* expected int, got str \(value: 'abc'\)"),
        ({"n_layer": None}, r"n_layer: .* expected int, got NoneType"),
        (
            {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 5},
            r"The hidden size \(64\) is not .*\(5\)",
        ),
        ({"dtype": "float31"}, r"dtype: 'float31' is no dtype that weights can have"),
        (
            {"model_type": "llama", "rope_parameters": {"rope_type": "yarn"}},
            r"no configuration .* LlamaConfig takes .*factor",
        ),
        ({"model_type": "nai"}, r"model_type 'nai' is not known; known are gpt2, .*qwen3, "),
        ({"model_type": ["gpt2"]}, r"model_type \['gpt2'\] is not known"),
    ],
)
def test_a_configuration_that_its_class_does_not_take_is_refused_by_key(saved, changes, says):
    describe(saved, **changes)
    with pytest.raises(UserError, match=rf"config\.json: {says}") as refused:
        open_huggingface(saved)
    assert "\n" not in str(refused.value)


def digest(directory):
    return inspect(open_huggingface(directory).state, str(directory))


def test_the_digest_is_of_the_content_whatever_the_files(tmp_path, tiny_model):
    model = tiny_model("gpt2").to(torch.bfloat16)
    for name, dtype, shard in (
        ("whole", torch.bfloat16, "5GB"),
        ("shards", torch.bfloat16, "20KB"),
        ("wide", torch.float32, "5GB"),
    ):
        model.to(dtype).save_pretrained(tmp_path / name, max_shard_size=shard)
    assert digest(tmp_path / "whole") == digest(tmp_path / "shards") == digest(tmp_path / "wide")
    with torch.no_grad():
        model.transformer.h[1].ln_1.bias[3] += 1
    model.save_pretrained(tmp_path / "other")
    assert digest(tmp_path / "other") != digest(tmp_path / "whole")
