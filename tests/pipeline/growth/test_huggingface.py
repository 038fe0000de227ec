"""What is refused of a Hugging Face directory, and what is read: against tensors saved by others' code."""

import pytest
import torch

from pipeline.common.errors import UserError
from pipeline.growth.huggingface import open_huggingface
from pipeline.growth.inspection import inspect
from tests.pipeline.growth.directories import as_bin, describe, in_shards, rewrite
from tests.pipeline.growth.models import whole

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


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(saved, capsys):
    as_bin(saved, lambda tensors: {**tensors, "extra": Harmful()})
    with pytest.raises(UserError, match=r"pytorch_model\.bin: holds more than tensors"):
        open_huggingface(saved)
    assert "code ran" not in capsys.readouterr().out


def test_a_pytorch_file_that_cannot_be_mapped_is_refused(saved):
    as_bin(saved, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"pytorch_model\.bin: cannot be memory-mapped"):
        open_huggingface(saved)


@pytest.mark.parametrize("pytorch", [False, True])
def test_a_truncated_file_is_refused(saved, pytorch):
    if pytorch:
        as_bin(saved)
    path = saved / ("pytorch_model.bin" if pytorch else "model.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=rf"{path.name}: .*damaged"):
        open_huggingface(saved)


def test_a_tensor_under_two_names_is_refused(saved):
    rewrite(saved, lambda tensors: tensors | {"wte.weight": tensors["transformer.wte.weight"]})
    with pytest.raises(UserError, match=r"wte\.weight' is there twice"):
        open_huggingface(saved)


def test_a_family_that_the_tensors_belie_is_refused(saved, tiny_model):
    tiny_model("bert").config.save_pretrained(saved)
    with pytest.raises(UserError, match=r"model\.safetensors: tensor 'transformer\..*' is unknown to family bert"):
        open_huggingface(saved)


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


def test_a_directory_without_weights_is_refused(saved):
    (saved / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no weights, neither model\.safetensors nor pytorch_model\.bin"):
        open_huggingface(saved)


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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_no_numbers_are_named(tmp_path, tiny_model, value):
    model = tiny_model("gpt2").float()
    with torch.no_grad():
        model.transformer.h[2].mlp.c_proj.weight[100, 7] = value
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"tensor 'transformer\.h\.2\.mlp\.c_proj\.weight' holds {value} at \[100, 7\]"):
        digest(tmp_path)
