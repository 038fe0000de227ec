"""`--dry_run`: what it tells is what the run comes to; it writes nothing, and refuses what the run would."""

import json
import re
import shutil
from collections.abc import Iterable

import pytest
from transformers import AutoConfig

from data_prep.manifest import HELDOUT
from data_prep.prepare import prepare
from data_prep.settings import CorpusConfig, DataPrepConfig, TokenizerConfig
from data_prep.shards import bin_path
from pipeline.families import FAMILIES
from pipeline.flops.activations import activation_bytes
from pipeline.flops.ledger import Ledger

PEAK = "flops.peak_tflops=0.0001"
"""So that nothing is measured."""


def row(page: str, name: str) -> list[str]:
    """The words of the first line that begins with `name`."""
    return next(line for line in page.splitlines() if re.match(rf"{name}\s", line)).split()


def test_it_tells_what_the_run_comes_to_and_writes_nothing(undisturbed, launch, tmp_path):
    recipe = undisturbed.run_dir.parent / "recipe.yaml"
    result = launch(recipe, "--dry_run", "--mfu", "0.5", PEAK, f"run_dir={tmp_path / 'none'}").finish()
    assert not (tmp_path / "none").exists()
    flops = Ledger.from_json(undisturbed.summary["flops"])
    for stage in ("source", "submodels", "full"):
        steps = [record for record in undisturbed.metrics if record["stage"] == stage]
        assert all(record["mfu"] > 0 for record in steps)
        words = row(result.output, stage)
        assert words[1] == str(len(steps)) and words[2] == f"{len(steps) * 8 * 32:,}"
        assert f"{flops.stages[stage].model_total:.3e}" in words
        rates = [float(word) for word in words if re.fullmatch(r"\d\.\d\de-\d\d", word)]
        expected = [steps[0]["lr"], max(record["lr"] for record in steps), steps[-1]["lr"]]
        # Printed to three digits.
        assert rates == pytest.approx(expected, rel=5e-3)
    assert f"{flops.parts.model_total:.3e}" in row(result.output, "total")
    # 3.13e9 FLOPs at half of 1e8 a second.
    assert "1:03" in row(result.output, "total")
    assert "an MFU of 50% on 1 x 0.0001 TFLOP/s" in result.output
    assert "134,208, 113,184 without embeddings" in result.output
    config = AutoConfig.from_pretrained(undisturbed.run_dir / "model", attn_implementation="sdpa")
    kept = activation_bytes(FAMILIES["gpt2"], config, 32, 4 * 32, scored=4 * 32)
    assert f"4 x 2 x 1 = 8 {kept / 2**20:.2f} MiB" in " ".join(row(result.output, "full"))
    assert "2 shards open" in result.output


def files(paths: Iterable) -> set[str]:
    return {str(path) for path in paths}


def test_text_is_not_prepared_and_epochs_are_known_once_it_is(launch, recipe, tmp_path, corpus):
    text = {"files": [str(corpus)], "heldout_fraction": 0.1}
    data = {"output_dir": str(tmp_path / "data"), "text": text, "tokenizer": {"vocab_size": 406}, "sequence_length": 32}
    path = recipe(data=data, stages=[{"name": "submodels", "submodel_layers": 2, "epochs": 2}, {"name": "full", "steps": 8}])
    before = files(tmp_path.rglob("*"))
    unknown = launch(path, "--dry_run", PEAK).finish()
    assert files(tmp_path.rglob("*")) == before
    assert "the steps of submodels are not known" in unknown.output
    assert row(unknown.output, "submodels")[1] == "?" and row(unknown.output, "full")[1] == "8"

    estimated = launch(path, "--dry_run", PEAK, "--corpus_tokens", "3200").finish()
    # 100 windows of 32, twice, in batches of 8.
    assert row(estimated.output, "submodels")[1] == "25"

    corpora = [CorpusConfig(**text)]
    tokenizer = TokenizerConfig(vocab_size=406)
    prepared = prepare(DataPrepConfig(output_dir=data["output_dir"], corpora=corpora, tokenizer=tokenizer))
    known = launch(path, "--dry_run", PEAK).finish()
    windows = (prepared.corpora[0].splits["train"].tokens - 1) // 32
    words = row(known.output, "submodels")
    assert words[1] == f"{-(-2 * windows // 8):,}" and words[3] == "2"
    assert str(prepared.directory) in known.output


@pytest.mark.full
def test_under_deepspeed_it_is_told_once_and_for_other_ranks_than_are_there(launch, recipe):
    result = launch(recipe(), "--dry_run", "--world_size", "4", PEAK, ranks=2).finish()
    assert result.output.count("model FLOPs by part") == 1
    assert "2 x 1 x 4 = 8" in result.output


def test_ranks_over_which_a_batch_does_not_divide_are_refused(launch, recipe):
    launch(recipe(), "--dry_run", "--world_size", "3").refused("train_batch_size 8 does not divide over 3 ranks")


@pytest.mark.parametrize(("words", "ranks"), [(["--dry_run"], 0), ([], 2)], ids=["dry run", "run"])
def test_shards_that_changed_are_refused_and_nothing_is_left(launch, recipe, prepared, tmp_path, words, ranks):
    copy = shutil.copytree(prepared.directory, tmp_path / "copy")
    (corpus,) = prepared.corpora
    shard = bin_path(copy / corpus.splits[HELDOUT].shards[0].prefix)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    started = launch(recipe(data={"shards": str(copy), "sequence_length": 32}), *words, ranks=ranks)
    started.refused(f"{shard}: bytes 0 to {len(content):,} are not those that were prepared")
    assert not (tmp_path / "run").exists()


def test_a_recipe_at_the_papers_scale_takes_seconds(launch, recipe, tmp_path):
    """GPT-3 (Brown et al. 2020, tables 2.1 and D.1): 175 billion parameters, 3.14e23 FLOPs for 300 billion tokens."""
    sizes = {"hidden_size": 12288, "num_hidden_layers": 96, "num_attention_heads": 96}
    path = recipe(
        data={"shards": "/nowhere", "sequence_length": 2048},
        source={
            "model": {"family": "gpt2", "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 1}
            | {"vocab_size": 50257},
            "steps": 1,
        },
        target=sizes,
        stages=[{"name": "full", "tokens": 300_000_000_000}],
        train_batch_size=1536,
    )
    result = launch(path, "--dry_run", PEAK, "--corpus_tokens", "300000000000", "--world_size", "1536").finish(timeout=60)
    (count,) = re.findall(r"parameters  (17\d,\d{3},\d{3},\d{3}),", result.output)
    assert int(count.replace(",", "")) == pytest.approx(175e9, rel=0.01)
    full = row(result.output, "full")
    flops = float(next(word for word in full if "e+" in word))
    # The table leaves out the scores of attention, a few hundredths.
    assert flops == pytest.approx(3.14e23, rel=0.05)


def test_a_source_may_be_a_configuration_without_weights(launch, recipe, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    config = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257, "n_positions": 1024}
    (model / "config.json").write_text(json.dumps(config))
    path = recipe(
        data={"shards": "/nowhere", "sequence_length": 1024},
        source={"path": str(model)},
        target={"hidden_size": 1024},
        stages=[{"name": "full", "tokens": 1_000_000}],
    )
    result = launch(path, "--dry_run", PEAK, "--corpus_tokens", "1000000").finish(timeout=60)
    # GPT-2's published 124,439,808.
    assert "parameters  124,439,808" in result.output
    launch(path).refused("model/model.safetensors: no such file")
