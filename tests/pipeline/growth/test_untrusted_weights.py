"""What is no model that can be grown is refused by what it is, with what to do; a stale quantization is said."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from pipeline.common.errors import UserError
from pipeline.growth.sources import open_source, preview_source
from tests.damages import IN_PLACE
from tests.pipeline.growth.directories import as_bin, describe, in_shards, rewrite
from tests.pipeline.growth.models import offline, small_model

NAME = "transformer.h.1.mlp.c_fc.weight"


@pytest.fixture
def saved(tmp_path):
    directory = tmp_path / "model"
    small_model("gpt2").float().save_pretrained(directory)
    return directory


def refusal(directory, open=open_source):
    with pytest.raises(UserError) as refused:
        open(directory)
    said = str(refused.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("files", "what", "remedy"),
    [
        (["model-q4_0.gguf"], "model-q4_0.gguf: a GGUF file of llama.cpp's", "gguf_file='model-q4_0.gguf'"),
        (["consolidated.00.pth", "params.json"], "consolidated.00.pth: Meta's own format", "convert_llama_weights_to_hf"),
        (["consolidated.safetensors", "params.json"], "Mistral's own format", "convert_mistral_weights_to_hf"),
        (["tf_model.h5"], "tf_model.h5: TensorFlow's format", "from_tf=True"),
        (["bert_model.ckpt.index", "bert_model.ckpt.meta"], "bert_model.ckpt.index: TensorFlow's format", "from_tf=True"),
        (["flax_model.msgpack"], "flax_model.msgpack: Flax's format", "from_flax=True"),
        (["model.onnx"], "model.onnx: ONNX", "the PyTorch model"),
        (["openvino_model.xml", "openvino_model.bin"], "OpenVINO's format", "exported from"),
        (["rust_model.ot"], "rust-bert's format", "converted from"),
        (["__0_0.distcp"], "a checkpoint of FSDP's, in shards", "accelerate merge-weights"),
        (["model.fp16.safetensors"], "model.fp16.safetensors: a variant of the weights", "rename it"),
    ],
)
@pytest.mark.parametrize("configured", [True, False])
def test_weights_in_another_format_alone_are_refused_by_it(saved, files, what, remedy, configured):
    (saved / "model.safetensors").unlink()
    for name in files:
        (saved / name).write_bytes(b"x")
    if not configured:
        (saved / "config.json").unlink()
    # A dry run refuses what the run would.
    for open in (open_source, preview_source):
        said = refusal(saved, open)
        assert what in said and remedy in said, said


def test_other_formats_beside_weights_are_not_looked_at(saved):
    for name in ("tf_model.h5", "flax_model.msgpack", "model.onnx", "model-q8.gguf", "consolidated.00.pth"):
        (saved / name).write_bytes(b"x")
    assert open_source(saved).remarks == ()


@pytest.mark.parametrize("with_model", [True, False])
def test_an_adapter_is_refused_with_the_command_that_merges_it(saved, with_model):
    if not with_model:
        (saved / "config.json").unlink()
        (saved / "model.safetensors").unlink()
    (saved / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base", "peft_type": "LORA"}))
    (saved / "adapter_model.safetensors").write_bytes(b"x")
    for open in (open_source, preview_source):
        said = refusal(saved, open)
        assert "adapter_config.json: a PEFT adapter of 'some/base' and no model" in said and "merge_and_unload" in said


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("base_model.model.transformer.h.0.attn.c_attn.lora_A.default.weight", "a PEFT adapter"),
        ("transformer.h.0.attn.c_attn.base_layer.weight", "a PEFT adapter"),
        ("transformer.h.0.attn.c_attn.lora_magnitude_vector.weight", "a PEFT adapter"),
        ("transformer.h.0.mlp.c_fc.qweight", "GPTQ or AWQ"),
        ("transformer.h.0.mlp.c_fc.g_idx", "GPTQ or AWQ"),
        ("transformer.h.0.mlp.c_fc.weight.absmax", "bitsandbytes"),
        ("transformer.h.0.mlp.c_fc.weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
        ("transformer.h.0.mlp.c_fc.SCB", "bitsandbytes"),
        ("transformer.h.0.mlp.c_fc.weight_scale_inv", "quantized, as scales"),
        ("transformer.h.0.mlp.c_fc.weight_packed", "quantized, as scales"),
        ("_fsdp_wrapped_module._flat_param", "FSDP's flat parameters"),
    ],
)
def test_tensors_of_no_plain_model_are_refused_by_what_they_are(saved, name, what):
    rewrite(saved, lambda tensors: tensors | {name: torch.ones(3)})
    said = refusal(saved)
    assert f"tensor {name!r}: the weights are" in said and what in said


QUANTIZED = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "awq": {"quant_method": "awq", "bits": 4},
    "bitsandbytes, 8 bits": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "bitsandbytes, 4 bits": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "compressed-tensors": {"quant_method": "compressed-tensors", "config_groups": {}},
    "an unnamed method": {},
}


@pytest.mark.parametrize("method", QUANTIZED)
def test_a_quantization_that_plain_weights_belie_is_said_and_not_written(saved, tmp_path, method):
    describe(saved, quantization_config=QUANTIZED[method])
    model = small_model("gpt2").bfloat16()
    save_file(dict(model.named_parameters()), saved / "model.safetensors", {"format": "pt"})
    growth = offline(saved, tmp_path / "out")
    (remark,) = [remark for remark in growth.source.remarks if "quantization_config" in remark]
    assert f"({method}" in remark and "the weights are plain: the key is left out" in remark
    certificate = growth.execute(lambda _: {})
    assert remark in certificate["remarks"]
    assert "quantization_config" not in json.loads((tmp_path / "out/config.json").read_text())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    for name, parameter in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter.float()), name


def test_code_of_a_models_own_is_said_not_run_and_not_written(saved, tmp_path):
    describe(saved, auto_map={"AutoModelForCausalLM": "modeling.Own"})
    (saved / "modeling.py").write_text("raise SystemExit('code ran')")
    growth = offline(saved, tmp_path / "out")
    assert "auto_map), which is not run: it is read as a stock gpt2" in growth.source.remarks[0]
    growth.execute(lambda _: {})
    assert "auto_map" not in json.loads((tmp_path / "out/config.json").read_text())


@pytest.mark.parametrize("method", QUANTIZED)
def test_of_a_configuration_alone_quantized_weights_are_refused(saved, method):
    describe(saved, quantization_config=QUANTIZED[method])
    (saved / "model.safetensors").unlink()
    assert f"quantization_config says that the weights are quantized ({method}" in refusal(saved, preview_source)


def test_a_targets_quantization_is_refused(saved, tmp_path):
    target = json.loads((saved / "config.json").read_text()) | {"quantization_config": QUANTIZED["gptq"]}
    (tmp_path / "target.json").write_text(json.dumps(target))
    with pytest.raises(UserError, match=r"target\.json: quantization_config: weights are written as plain numbers"):
        offline(saved, tmp_path / "out", tmp_path / "target.json")


@pytest.mark.parametrize("save", [as_bin, rewrite])
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2, torch.int32])
def test_quantized_tensors_under_plain_names_are_refused(saved, dtype, save):
    save(saved, lambda tensors: tensors | {NAME: tensors[NAME].to(dtype)})
    name = str(dtype).removeprefix("torch.")
    assert f"tensor {NAME!r} is stored as {name}; quantized weights cannot be grown" in refusal(saved)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t | {NAME: t[NAME].to_sparse()}, f"tensor {NAME!r} is sparse; save it as tensor.to_dense()"),
        (lambda t: t | {NAME: t[NAME].to_sparse_csr()}, f"tensor {NAME!r} is sparse"),
        (lambda t: t | {NAME: t[NAME].to("meta")}, f"tensor {NAME!r} has no values, having been saved from torch's meta"),
        (lambda t: t | {NAME: t[NAME].to(torch.complex64)}, f"tensor {NAME!r} is stored as complex64; complex or boolean"),
        (lambda t: t | {NAME: t[NAME] > 0}, f"tensor {NAME!r} is stored as bool; complex or boolean"),
        (
            lambda t: t | {NAME: torch.quantize_per_tensor(t[NAME], 0.1, 0, torch.qint8)},
            f"{NAME!r} is stored as qint8; quantized",
        ),
        (lambda t: t | {7: torch.ones(2)}, "the key 7 is no name of a tensor"),
        (lambda t: t | {("a", 1): torch.ones(2)}, "the key ('a', 1) is no name of a tensor"),
        (lambda t: t | {NAME: 5}, "not a mapping of names to tensors"),
        (lambda t: {"model": t}, "holds its tensors under the key 'model'; save that mapping alone"),
        (lambda t: {"state_dict": t, "epoch": 3}, "holds its tensors under the key 'state_dict'; save that mapping alone"),
        (
            lambda t: {"module": t, "optimizer": {"lr": 1.0}},
            "holds its tensors under the key 'module'; save that mapping alone",
        ),
        (lambda t: list(t.values()), "not a mapping of names to tensors"),
        (lambda t: [1, 2], "not a mapping of names to tensors"),
        (lambda t: {"a": 3}, "not a mapping of names to tensors"),
        (lambda t: t[NAME], "not a mapping of names to tensors"),
        (lambda t: {}, "tensor 'transformer.wte.weight' is missing"),
        (lambda t: t | {NAME: t[NAME][None]}, f"tensor {NAME!r} has shape (1, 32, 64) where config.json makes it (32, 64)"),
        (lambda t: t | {NAME: torch.tensor(1.0)}, f"tensor {NAME!r} has shape ()"),
    ],
)
def test_what_a_pytorch_file_may_hold_besides_plain_tensors_is_refused(saved, change, says):
    as_bin(saved, change)
    assert says in refusal(saved)


def test_views_parameters_and_strides_are_read_as_they_are(saved):
    """Slices of a larger storage, transposed, expanded, of a gradient: what they show is the weight."""
    big = torch.randn(4, 2000, 64)

    def change(tensors):
        tensors[NAME] = big[2, 700:732]
        tensors["transformer.h.0.mlp.c_fc.weight"] = torch.randn(64, 32).T
        tensors["transformer.h.2.ln_1.weight"] = torch.tensor([0.5]).expand(32)
        tensors["transformer.ln_f.bias"] = torch.nn.Parameter(torch.randn(32))
        return tensors

    tensors = as_bin(saved, change)
    state = open_source(saved).state
    for name, tensor in state.items():
        rows = tensor.rows(0, tensor.shape[0])
        assert torch.equal(rows, tensors[name].detach()) and not rows.requires_grad, name


@pytest.mark.parametrize("spoil", IN_PLACE)
@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("one", "config.json"),
        ("one", "model.safetensors"),
        ("bin", "pytorch_model.bin"),
        ("two", "model.safetensors.index.json"),
        ("two", "model-00002-of-00002.safetensors"),
        ("no index", "model-00002-of-00002.safetensors"),
        ("adapter", "adapter_config.json"),
    ],
)
def test_a_file_that_is_none_or_holds_nothing_is_refused_by_name(saved, form, name, spoil):
    if form == "bin":
        as_bin(saved)
    if form in ("two", "no index"):
        in_shards(saved, index=form == "two")
    if form == "adapter":
        (saved / name).write_text("{}")
    IN_PLACE[spoil](saved / name)
    for open in (open_source, preview_source):
        assert refusal(saved, open).startswith(f"{saved / name}: ")


@pytest.mark.parametrize("spoil", ["a directory", "a link loop", "a link to nothing", "a pipe"])
@pytest.mark.parametrize("name", ["tokenizer.json", "generation_config.json", "vocab.txt"])
def test_a_file_beside_the_weights_that_is_none_is_refused_before_anything_is_computed(saved, tmp_path, name, spoil):
    (saved / name).write_text("{}")
    IN_PLACE[spoil](saved / name)
    for preview in (True, False):
        with pytest.raises(UserError, match=rf"{name}: .*; copy it again, or remove it"):
            offline(saved, tmp_path / "out", preview=preview)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"weight_map": []}, "not an index of weights"),
        ({"weight_map": {"a": 3}}, "not an index of weights"),
        ({"weight_map": {"a": "../config.json"}}, "'../config.json' is no name of a file beside it"),
        ({"weight_map": {"a": "/etc/passwd"}}, "'/etc/passwd' is no name of a file beside it"),
        ({}, "not an index of weights"),
    ],
)
def test_an_index_of_something_else_is_refused(saved, content, says):
    in_shards(saved, index=True)
    (saved / "model.safetensors.index.json").write_text(json.dumps(content))
    assert says in refusal(saved)
