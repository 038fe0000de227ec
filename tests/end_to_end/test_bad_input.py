"""Wrong input: exit status 2, one sentence that names it, nothing half-written."""

import json
import math
import socket
import sys
import threading
from pathlib import Path

import pytest
import torch
import yaml
import zstandard
from safetensors.torch import load_file, save_file
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from data_prep.settings import TokenizerConfig
from data_prep.tokenizers.training import train_tokenizer
from pipeline.training.certifying import certifying
from pipeline.training.loop import steps as loop_steps
from pipeline.training.preparation import preparation
from pipeline.training.run import model_phases
from tests.end_to_end.conftest import FP32


@pytest.fixture
def main(programs):
    """launch/pretrain.py in this process."""
    return programs("pretrain")


@pytest.fixture
def refused(main, recipe, monkeypatch, capsys, tmp_path):
    """Start the toy recipe with overrides, and return the one sentence with which it is refused."""

    def start(*overrides: str, ds_config: dict = FP32, **changes: object) -> str:
        path = recipe(**changes)
        ds_path = tmp_path / "ds.json"
        ds_path.write_text(json.dumps(ds_config))
        before = set(tmp_path.rglob("*"))
        monkeypatch.setattr(sys, "argv", ["pretrain", "--ds_config", str(ds_path), "--recipe", str(path), *overrides])
        capsys.readouterr()
        assert main() == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        after = set(tmp_path.rglob("*"))
        left = [path for path in after - before if not path.name.endswith(".lock") and path != tmp_path / "data"]
        assert left == [] and before <= after, "nothing is left behind, and nothing removed"
        return error

    return start


def text(path: Path, content: bytes) -> dict:
    path.write_bytes(content)
    return {
        "output_dir": str(path.parent / "data"),
        "text": {"files": [str(path)]},
        "tokenizer": {"vocab_size": 300},
        "sequence_length": 32,
    }


LINES = b'{"text": "some words that make a line"}\n' * 500


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.jsonl", b"", "empty.jsonl: the file is empty"),
        ("bad.jsonl.zst", zstandard.compress(LINES)[:-20], "bad.jsonl.zst: the compressed file breaks off"),
        ("bad.jsonl", LINES + b"no json\n" * 101, "bad.jsonl: line 601: not JSON"),
        ("other.jsonl", b'{"body": "x"}\n' * 101, "other.jsonl: line 101: no text under 'text'"),
        ("short.jsonl", b'{"text": "x"}\n', "no document is left"),
    ],
)
def test_unusable_text_is_refused_by_file(refused, tmp_path, name, content, words):
    assert words in refused(data=text(tmp_path / name, content))


def test_missing_text_is_refused_by_name(refused, tmp_path):
    data = text(tmp_path / "text.jsonl", LINES)
    data["text"]["files"] = [str(tmp_path / "other-*.jsonl")]
    assert "other-*.jsonl: no such file" in refused(data=data)


def test_data_of_another_tokenizer_than_the_sources_is_refused(refused, prepared, tiny_model, corpus, tmp_path):
    source = tmp_path / "source"
    tiny_model("gpt2", vocab=500).float().save_pretrained(source)
    other = TokenizerConfig(vocab_size=300, algorithm="byte_level_bpe", family="gpt2")
    train_tokenizer((json.loads(line)["text"] for line in corpus.open()), other, source)
    error = refused(source={"path": str(source)}, data={"shards": str(prepared.directory), "sequence_length": 8})
    assert "source/tokenizer.json: gives other ids than" in error
    # The other way round: shards of the source's own beside a target that has another.
    prepared.tokenizer.write(tmp_path / "source")
    new = tmp_path / "new"
    new.mkdir()
    train_tokenizer((json.loads(line)["text"] for line in corpus.open()), other, new)
    data = {"shards": str(prepared.directory), "sequence_length": 8}
    error = refused(
        source={"path": str(source)}, target={"num_hidden_layers": 4, "vocab_size": 512, "tokenizer": str(new)}, data=data
    )
    assert "the text's tokenizer gives other ids than target.tokenizer" in error


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["target.num_hidden_layers=1"], "target.num_hidden_layers: 1 is smaller"),
        (
            ["stages=[{name: a, steps: 1}, {name: g, grow: {hidden_size: 24}}, {name: b, steps: 1}]"],
            "stages.g.grow.hidden_size: 24 is smaller",
        ),
        (["target.hidden_size=44"], "do not keep the source's head dimension"),
        (["source.model.num_attention_heads=5"], "hidden_size 32 is no multiple of num_attention_heads 5"),
        (["stages.submodels.submodel_layers=3"], "submodel_layers: 3 does not divide the model's 4 layers"),
        (["source.model.vocab_size=300"], "the tokenizer has ids up to 405, and the model's vocab_size is 300"),
        (["data.shards=/nowhere"], "/nowhere/manifest.json: no such file"),
        (["data.weights={wiki: 1}"], "data.weights: no corpus 'wiki' in the prepared data; prepared are: text"),
        (
            ["data.shards=null", "data.text={shards: [x]}", "data.tokenizer={vocab_size: 300}"],
            "data: tokenizer: shards need the tokenizer that they were made with",
        ),
        (["optimiser.lr=1"], "unknown key 'optimiser'; did you mean 'optimizer'?"),
        (["source.model.family=mamba"], "source.model.family: 'mamba' is not known; known are gpt2, "),
    ],
)
def test_an_impossible_recipe_is_refused_by_key(refused, overrides, words):
    assert words in refused(*overrides)


@pytest.mark.parametrize(
    ("ds_config", "words"),
    [
        ({"zero_optimisation": {}}, "unknown key 'zero_optimisation'; did you mean 'zero_optimization'?"),
        ({"zero_optimization": {"stages": 3}}, "unknown key 'zero_optimization.stages'; did you mean 'stage'?"),
        ({"optimizer": {"type": "Adam"}}, "optimizer: belongs in `optimizer` of the recipe"),
        ({"train_batch_size": "many"}, 'train_batch_size: a positive number or "auto"'),
        ({"train_batch_size": 8, "gradient_accumulation_steps": 3}, "gradient_accumulation_steps 3 does not fit"),
        ({"bf16": True}, "bf16: an object of keys is expected"),
        ({"zero_optimization": {"stage": 7}}, "zero_optimization.stage: 0, 1, 2 or 3 is expected"),
        ({"gradient_clipping": "x"}, "gradient_clipping: a number"),
        ({"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 2}}, "divide the number of ranks, 1"),
    ],
)
def test_an_impossible_deepspeed_configuration_is_refused_by_key(refused, ds_config, words):
    assert words in refused(ds_config=ds_config)


@pytest.fixture
def source(tmp_path, tiny_model):
    directory = tmp_path / "source"
    tiny_model("gpt2", vocab=406).float().save_pretrained(directory)
    return directory


def spoil_tensor(directory: Path, change) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: (d / "model.safetensors").unlink(), "model.safetensors: no such file"),
        (lambda d: spoil_tensor(d, lambda t: t.pop("transformer.ln_f.bias")), "'transformer.ln_f.bias' is missing"),
        (lambda d: spoil_tensor(d, lambda t: t.update({"transformer.ln_f.bias": torch.ones(3)})), "has shape (3,)"),
        (lambda d: (d / "config.json").write_text('{"model_type": "bloom"}'), "'bloom' is not known; known are gpt2, bert"),
    ],
)
def test_an_unusable_source_directory_is_refused_by_file_or_tensor(refused, source, spoil, words):
    spoil(source)
    assert words in refused(source={"path": str(source)}, target={"hidden_size": 64})


def test_a_family_whose_objective_the_pipeline_lacks_is_refused_before_anything_is_started(refused, tiny_model, tmp_path):
    tiny_model("t5", vocab=406).float().save_pretrained(tmp_path / "source")
    said = refused(source={"path": str(tmp_path / "source")}, target={"hidden_size": 64})
    assert said.startswith(f"source.path: {tmp_path / 'source'}: t5 learns by span corruption") and "launch/grow.py" in said


DUE = ("checkpointing.every=1", "checkpointing.every_minutes=1.0e-9", "evaluation.every=1", "the end")


# What is due first does not depend on which of the comparisons finds the fault: `make test` has each with one of the two.
@pytest.mark.parametrize(
    ("due", "where"),
    [
        pytest.param(due, where, marks=() if number % 2 == other else pytest.mark.full)
        for number, due in enumerate(DUE)
        for other, where in enumerate(["in float64", "in training"])
    ],
)
def test_a_faulty_growth_ends_before_anything_rests_on_it(main, recipe, source, monkeypatch, capsys, tmp_path, where, due):
    """A fault and no wrong input; here one of the two comparisons is made to find one."""
    name = "compare" if where == "in float64" else "measure_growth"
    plain = getattr(certifying, name)
    monkeypatch.setattr(certifying, name, lambda *given: plain(*given) | {"max_logit_difference": 0.5})
    growth = {"width": "fpi", "depth": "last_layer"}
    path = recipe(
        source={"path": str(source)}, target={"hidden_size": 64}, growth=growth, stages=[{"name": "full", "steps": 3}]
    )
    ds_path = tmp_path / "ds.json"
    ds_path.write_text(json.dumps(FP32))
    words = ["--ds_config", str(ds_path), "--recipe", str(path), "data.sequence_length=16", *([due] if "=" in due else [])]
    monkeypatch.setattr(sys, "argv", ["pretrain", *words])
    assert main() == 1
    error = capsys.readouterr().err
    assert "00.json: this growth should preserve the function and moves a logit by" in error
    assert ("0.5 in float64" if where == "in float64" else "0.5 in float32") in error
    assert not json.loads((tmp_path / "run" / "certificates" / "00.json").read_text())["measured_agrees"]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == (3 if due == "the end" else 1)
    assert not list((tmp_path / "run" / "checkpoints").iterdir()) and not (tmp_path / "run" / "model").exists()
    # Started again it goes on from nothing, and so ends alike.
    assert main() == 1
    assert "this growth should preserve the function" in capsys.readouterr().err


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_source_found_to_hold_no_numbers_while_the_engine_is_built_is_refused_before_the_first_step(
    refused, source, monkeypatch, value
):
    """The directory that the run had made its own by then is removed: another source may be named for it."""
    built, steps = threading.Event(), []
    looked_through, build = preparation.inspect, model_phases.build

    def late(*given: object) -> str:
        assert built.wait(60)
        return looked_through(*given)

    def building(*given: object, **named: object) -> object:
        built.set()
        return build(*given, **named)

    monkeypatch.setattr(preparation, "inspect", late)
    monkeypatch.setattr(model_phases, "build", building)
    monkeypatch.setattr(loop_steps.Steps, "launch", lambda *_: steps.append(1))
    spoil_tensor(source, lambda tensors: tensors["transformer.h.1.ln_2.bias"][5:6].fill_(value))
    message = refused(
        "data.sequence_length=16",
        source={"path": str(source)},
        target={"hidden_size": 64},
        growth={"width": "fpi", "depth": "last_layer"},
        stages=[{"name": "full", "steps": 3}],
    )
    assert f"source: tensor 'transformer.h.1.ln_2.bias' holds {value} at [5]" in message
    assert not steps


def test_the_status_passes_through_the_launcher(launch, recipe):
    finished = launch(recipe(), "target.hidden_size=16", ranks=2, deepspeed=True).wait()
    assert finished.status == 2
    assert finished.error.count("target.hidden_size: 16 is smaller") == 1, "one rank speaks"
    assert "Traceback" not in finished.error


def test_a_port_that_is_taken_is_named(launch, recipe):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        words = ["deepspeed", "--master_port", port, "launch/pretrain.py", "--ds_config", "ds_configs/zero3.json"]
        finished = launch.command([*words, "--recipe", str(recipe())], recipe().parent / "run").wait()
    assert finished.status == 2
    assert f"MASTER_PORT {port}: the ranks cannot meet there" in finished.error
    assert "Traceback" not in finished.error


def test_print_config_shows_both_files_as_resolved(launch, recipe):
    finished = launch(recipe(), "--print_config", "optimizer.lr=0.5").finish()
    # What is printed is a recipe as it stands, the other file being a comment in it.
    assert yaml.safe_load(finished.output)["optimizer"]["lr"] == 0.5
    ds_text = finished.output.partition("# The DeepSpeed configuration:\n")[2].replace("# ", "")
    assert json.loads(ds_text)["gradient_accumulation_steps"] == 2
    assert not finished.run_dir.exists()


# --- what is known before any text is read ---------------------------------------------------------


@pytest.fixture
def tokenizers(tmp_path) -> dict[str, Path]:
    """Byte-level tokenizers: `small` of 300 ids, `other` whose ids differ, `masked` with BERT's special tokens."""
    made = {}
    special = {"small": ["<|endoftext|>"], "other": ["<|endoftext|>"], "masked": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]}
    for name, tokens in special.items():
        tokenizer = ByteLevelBPETokenizer()
        words = {"small": "the text of one tokenizer ", "other": "quite another kettle of fish ", "masked": "some words "}[name]
        tokenizer.train_from_iterator([words * 50], vocab_size=300, special_tokens=tokens, show_progress=False)
        named = {"eos_token": tokens[0]}
        if name == "masked":
            named = {
                "cls_token": "[CLS]",
                "sep_token": "[SEP]",
                "mask_token": "[MASK]",
                "pad_token": "[PAD]",
                "unk_token": "[UNK]",
            }
        PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, **named).save_pretrained(tmp_path / name)
        made[name] = tmp_path / name
    return made


def scratch(family: str = "gpt2", **sizes: int) -> dict:
    model = {"family": family, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return {"model": model | sizes, "steps": 8}


def not_a_number(source: Path) -> None:
    spoil_tensor(source, lambda tensors: tensors["transformer.h.1.ln_2.bias"].fill_(float("nan")))


def with_tokenizer(name: str):
    def spoil(source: Path) -> None:
        for path in (source.parent / name).iterdir():
            (source / path.name).write_bytes(path.read_bytes())

    return spoil


def with_thesis(source: Path) -> None:
    (source.parent / "run").mkdir()
    (source.parent / "run" / "thesis.tex").touch()


FROM_SOURCE, TO_64 = {"path": "source"}, {"hidden_size": 64}
KNOWN_BEFOREHAND = {
    # the tokenizer against the source, the vocabulary, the objective, the tasks
    "other ids": (with_tokenizer("small"), {"source": FROM_SOURCE, "tokenizer": "other"}, "gives other ids than"),
    "ids beyond the source's": (None, {"source": FROM_SOURCE | {"path": "narrow"}, "tokenizer": "small"}, "vocab_size is 50"),
    "ids beyond a named vocabulary": (None, {"source": scratch(vocab_size=100), "tokenizer": "small"}, "vocab_size is 100"),
    "more ids to train than are named": (None, {"source": scratch(vocab_size=100)}, "ids up to 299"),
    "a smaller target vocabulary": (None, {"tokenizer": "small", "target": {"vocab_size": 260}}, "vocab_size: 260 is smaller"),
    "no tokenizer": (None, {"source": FROM_SOURCE, "tokenizer": None}, "no tokenizer here"),
    "no tokenizer there": (None, {"tokenizer": "nowhere"}, "nowhere"),
    "no mask": (None, {"source": scratch("bert"), "tokenizer": "small"}, "no mask or cls token"),
    "a task that is none": (None, {"evaluation": {"tasks": ["wikitext7"]}}, "wikitext7"),
    "a task's file": (None, {"evaluation": {"tasks": ["text:/nowhere.txt"]}}, "/nowhere.txt"),
    # the source
    "no source": (
        None, {"source": {"path": "/nowhere"}},
        "source.path: '/nowhere' is no directory here; name one with a Hugging Face model",
    ),
    "weights that are no numbers": (not_a_number, {"source": FROM_SOURCE, "tokenizer": "small"}, "ln_2.bias' holds nan"),
    "no moments": (None, {"source": FROM_SOURCE, "tokenizer": "small", "growth": {"optimizer_state": "grow"}}, "neither a"),
    "pairs without a head": (None, {"pairs": "nsp"}, "data.pairs: gpt2 has no head on sentence pairs; use bert"),
    # sizes and growth
    "smaller": (None, {"target": {"hidden_size": 16}}, "target.hidden_size: 16 is smaller than the source's 32"),
    "heads": (None, {"target": {"hidden_size": 50}}, "target.num_attention_heads"),
    "positions": (None, {"source": scratch(max_position_embeddings=16)}, "data.sequence_length: 32 is beyond the model's 16"),
    "a stage's positions": (
        None, {"stages": [{"name": "full", "steps": 8, "sequence_length": 99}], "source": scratch(max_position_embeddings=64)},
        "stages.full.sequence_length: 99 is beyond",
    ),
    "layers of a list": (
        None, {"target": {"num_hidden_layers": 3}, "growth": {"depth": "list", "layers": [0, 5, 1]}}, "5 is no layer"
    ),
    "norms for too long": (
        None, {"source": scratch("bert"), "tokenizer": "masked", "target": {"hidden_size": 48},
               "growth": {"width": "fpi", "norm_statistics": "weighted"}},
        "1000 steps are more than the target's 8",
    ),
    "blocks": (None, {"stages": [{"name": "full", "steps": 8, "submodel_layers": 3}]}, "submodel_layers"),
    "layers that are not there": (None, {"stages": [{"name": "full", "steps": 8, "trainable": ["layers.7"]}]}, "layers.7"),
    # the machine, DeepSpeed, the disk
    "flash attention": (None, {"attn_implementation": "flash_attention_2"}, "attn_implementation: flash_attention_2 needs"),
    "a monitor": (None, {"ds_config": FP32 | {"comet": {"enabled": True}}}, "comet"),
    "a run directory that is a file": (lambda source: (source.parent / "run").touch(), {}, "run"),
    "a directory of something else": (with_thesis, {}, "run: the directory holds files of no run (thesis.tex)"),
    "text that is not there": (None, {"files": ["/nowhere/*.jsonl"]}, "/nowhere/*.jsonl: no such file"),
    "text that is a folder": (None, {"files": ["/proc"]}, "/proc"),
}  # fmt: skip


@pytest.mark.parametrize("case", KNOWN_BEFOREHAND)
def test_what_is_known_beforehand_is_refused_alike_by_a_dry_run_and_before_any_text_is_read(
    refused, source, tokenizers, tiny_model, tmp_path, monkeypatch, case
):
    def read(*_: object) -> None:
        raise AssertionError("the text was read before this was refused")

    monkeypatch.setattr("data_prep.prepare._carry_out", read)
    spoil, changes, words = KNOWN_BEFOREHAND[case]
    if spoil is not None:
        spoil(source)
    (tmp_path / "text.jsonl").write_bytes(LINES)
    if changes.get("source", {}).get("path") == "narrow":
        tiny_model("gpt2", vocab=50).float().save_pretrained(tmp_path / "narrow")
    given = {"target": {}, "growth": {}, "stages": [{"name": "full", "steps": 8}]} | changes
    if "path" in given.get("source", {}):
        given["source"] = given["source"] | {"path": str(tmp_path / given["source"]["path"])}
    name, files, pairs = (
        given.pop("tokenizer", ""),
        given.pop("files", [str(tmp_path / "text.jsonl")]),
        given.pop("pairs", None),
    )
    tokenizer = {"vocab_size": 300} if name == "" else None if name is None else {"path": str(tmp_path / name)}
    data = {"output_dir": str(tmp_path / "data"), "text": {"files": files}, "tokenizer": tokenizer, "pairs": pairs}
    given["data"] = data | {"sequence_length": 16 if "path" in given.get("source", {}) else 32}
    dry_message, said = refused("--dry_run", "flops.peak_tflops=0.001", **given), refused(**given)
    assert words in dry_message
    assert said == dry_message
