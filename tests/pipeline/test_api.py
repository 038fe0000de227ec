"""The Python API: stock models grown in memory and from directories, what is refused, and that nothing is left then."""

import json
import os
import subprocess
import sys
import tempfile

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from pipeline import GrownModel, UserError, grow

IDS = torch.arange(16)[None]


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=32, n_embd=32, n_layer=2, n_head=4)).eval()


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, num_key_value_heads=2, max_position_embeddings=32, **sizes)).eval()


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(input_ids=IDS).logits


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    """Where the API saves a model in memory; holds nothing when the test ends."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert not list(folder.iterdir())


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-5)])
def test_a_stock_model_in_memory_grows_exactly(make, dtype, tolerance, tmp_path):
    model = make().to(dtype)
    if (dtype, make) == (torch.float64, gpt2):
        tolerance = 1e-12  # Llama's class computes norms and angles in float32
    grown = grow(model, tmp_path / "grown", hidden_size=64, num_hidden_layers=3)
    assert grown.directory == tmp_path / "grown" and grown.certificate["verdict"] == "exact"
    loaded = AutoModelForCausalLM.from_pretrained(grown.directory).eval()
    assert loaded.dtype is dtype and (loaded.config.hidden_size, loaded.config.num_hidden_layers) == (64, 3)
    assert (logits(loaded) - logits(model)).abs().max() < tolerance


def test_a_directory_with_every_option(tmp_path):
    gpt2().save_pretrained(tmp_path / "source")
    (tmp_path / "source" / "tokenizer.json").write_text("{}")
    grown = grow(
        str(tmp_path / "source"),
        str(tmp_path / "grown"),
        {"n_embd": 48},
        n_layer=4,
        width="fpi",
        depth="stack",
        growth={"symmetry": "paired", "noise": 0.25},
        seed=7,
        dtype="bfloat16",
    )
    assert isinstance(grown, GrownModel)
    assert json.loads((grown.directory / "certificate.json").read_text()) == json.loads(json.dumps(grown.certificate))
    said = {key: grown.certificate[key] for key in ("seed", "dtype", "format", "source_path", "verdict")}
    source = str(tmp_path / "source")
    assert said == {"seed": 7, "dtype": "bfloat16", "format": "hf", "source_path": source, "verdict": "inexact by design"}
    used = {key: grown.certificate["growth"][key] for key in ("width", "depth", "symmetry", "noise")}
    assert used == {"width": "fpi", "depth": "stack", "symmetry": "paired", "noise": 0.25}
    assert (grown.directory / "tokenizer.json").read_text() == "{}"
    card = (grown.directory / "README.md").read_text()
    assert f"pipeline.grow('{source}', " in card and "n_layer=4" in card


def test_a_file_names_every_size_and_no_size_is_the_identity(tmp_path):
    model = gpt2()
    GPT2Config(**model.config.to_dict() | {"n_embd": 64, "n_head": 8}).save_pretrained(tmp_path / "large")
    grown = grow(model, tmp_path / "grown", tmp_path / "large" / "config.json")
    assert AutoModelForCausalLM.from_pretrained(grown.directory).config.n_head == 8
    same = grow(model, tmp_path / "same")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(same.directory).eval()), logits(model))
    assert same.certificate["source_path"] == "a GPT2LMHeadModel in memory"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"source": 3}, ("a int is no transformers model", "PreTrainedModel")),
        ({"source": "no/such/directory"}, ("no/such/directory",)),
        ({"source": torch.nn.Linear(2, 2)}, ("a Linear is no transformers model",)),
        ({"revision": "main"}, ("revision", "in memory")),
        ({"hidden_sise": 64}, ("unknown key 'hidden_sise'", "did you mean 'hidden_size'")),
        ({"hidden_size": 16}, ("hidden_size", "16")),
        ({"hidden_size": "many"}, ("hidden_size", "a number is expected")),
        ({"hidden_size": 64, "target": {"hidden_size": 64}}, ("hidden_size", "once")),
        ({"hidden_size": 64, "target": "large.json"}, ("large.json", "leave out hidden_size")),
        ({"target": "large.json"}, ("large.json",)),
        ({"width": "wider"}, ("width", "'wider'")),
        ({"growth": {"nois": 1}}, ("unknown key 'nois'", "noise")),
        ({"dtype": torch.int8}, ("int8", "float32")),
        ({"tokenizer": "other"}, ("tokenizer", "a model in memory has none")),
    ],
)
def test_wrong_input_is_refused_in_one_sentence_and_nothing_remains(arguments, parts, tmp_path):
    with pytest.raises(UserError) as refused:
        grow(**{"source": gpt2(), "output_directory": tmp_path / "grown"} | arguments)
    sentence = str(refused.value)
    assert "\n" not in sentence and all(part in sentence for part in parts), sentence
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]


def test_a_source_without_numbers_leaves_nothing(tmp_path):
    model = gpt2()
    model.transformer.wte.weight.data[3, 5] = torch.nan
    with pytest.raises(UserError, match=r"a GPT2LMHeadModel in memory: .*wte"):
        grow(model, tmp_path / "grown", hidden_size=64)
    with pytest.raises(UserError, match="meta device"):
        grow(gpt2().to("meta"), tmp_path / "grown", hidden_size=64)
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]


def test_what_is_there_is_not_replaced(tmp_path):
    (tmp_path / "grown").mkdir()
    (tmp_path / "grown" / "mine").touch()
    with pytest.raises(UserError, match="grown: exists and is not an empty directory"):
        grow(gpt2(), tmp_path / "grown", hidden_size=64)
    if os.getuid():
        tmp_path.chmod(0o500)
        with pytest.raises(UserError, match="Permission denied"):
            grow(gpt2(), tmp_path / "other", hidden_size=64)
        tmp_path.chmod(0o700)
    assert [path.name for path in (tmp_path / "grown").iterdir()] == ["mine"]


def test_importing_the_package_is_light():
    program = "import sys, pipeline; print(len({'torch', 'transformers', 'pydantic'} & set(sys.modules))); pipeline.no_such"
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, encoding="utf-8")
    assert done.stdout == "0\n" and "module 'pipeline' has no attribute 'no_such'" in done.stderr
