"""The job on a person's own things: books in JSONL.zst, GPT-2's tokenizer, a Hugging Face source directory."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the books and GPT-2's vocabulary are not beside the checkout")
def test_books_through_gpt2s_tokenizer_grow_a_hugging_face_model(launch, tmp_path):
    source = tmp_path / "source"
    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(source)
    # As a training loop of one's own leaves it.
    weights = source / "model.safetensors"
    save_file({f"module.{name}": tensor for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(SHARED / "tokenizers" / "gpt2" / name, source / name)
    recipe = {
        "run_dir": str(tmp_path / "run"),
        "train_batch_size": 8,
        "data": {
            "output_dir": str(tmp_path / "data"),
            "text": {"files": [str(SHARED / "gutenberg" / "heldout.jsonl.zst")], "heldout_fraction": 0.05},
            "sequence_length": 64,
        },
        "source": {"path": str(source)},
        "target": {"hidden_size": 64, "num_hidden_layers": 4},
        "growth": {"width": "fpi", "depth": "last_layer"},
        "stages": [{"name": "submodels", "submodel_layers": 2, "steps": 4}, {"name": "full", "steps": 6}],
        "evaluation": {"windows": 8},
    }
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(recipe))
    finished = launch(path, ranks=2).finish()
    assert "came without a ledger" in finished.output
    certificate = json.loads((finished.run_dir / "certificates" / "00.json").read_text())
    assert certificate["verdict"] == "exact"
    remark = "the tensors' names lose module."
    assert f"source: {remark}\n" in finished.output and remark in certificate["remarks"]
    assert f"- {remark}.\n" in (finished.run_dir / "model" / "README.md").read_text()
    # fp32 against fp32: logits of a fresh model are below 1, through 4 layers.
    assert certificate["measured"]["max_logit_difference"] < 1e-5
    assert certificate["measured"]["loss_gap"] == pytest.approx(0, abs=1e-5)
    grown = GPT2LMHeadModel.from_pretrained(finished.run_dir / "model")
    assert (grown.config.n_embd, grown.config.n_layer, grown.config.n_head) == (64, 4, 4)
    assert (finished.run_dir / "model" / "merges.txt").is_file()
