"""launch/grow.py as a person starts it: what it writes, what it refuses, what it leaves when it is killed."""

import json
import resource
import sys

import pytest
import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    BertForSequenceClassification,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
)

from pipeline.cli import grow as launched
from pipeline.flops.counts import StepFlops
from pipeline.flops.ledger import Ledger, write_ledger
from pipeline.growth import offline, zero_files
from pipeline.growth.sources import open_source
from pipeline.growth.state import Constant
from pipeline.growth.zero_files import TAG, write_zero3
from pipeline.recipe import GrowthConfig
from pipeline.training.directory.inherited import read_inherited
from tests.end_to_end.conftest import wait_for
from tests.hub import Hub, ask, serving

EXACT = ("--target", "hidden_size=96,num_hidden_layers=5", "--width", "fpi", "--depth", "last_layer")


@pytest.fixture
def started(monkeypatch, capsys):
    """Run the command in this process, which spares importing torch again; returns (status, output, error)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["grow.py", *map(str, words)])
        capsys.readouterr()
        try:
            status = launched.main()
        except SystemExit as left:
            status = left.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def grow(started):
    """Run the command to its good end; returns its output."""

    def run(*words):
        status, output, error = started(*words)
        assert status == 0, error
        return output

    return run


@pytest.fixture
def refused(started, tmp_path):
    """Check that the command into `tmp_path / "out"` ends with one sentence that says this, and leaves nothing there."""

    def run(*words, says):
        out = tmp_path / "out"
        status, _, error = started(*words, "--out", out)
        assert status == 2 and len(error.strip().splitlines()) == 1 and "Traceback" not in error, error
        assert says in error and not out.exists() and not out.with_name("out.partial").exists()

    return run


@pytest.fixture
def source(tmp_path, tiny_model):
    """A GPT-2 of 3 layers x 32 in float32, with a tokenizer's file beside it."""
    directory = tmp_path / "source"
    tiny_model("gpt2").float().save_pretrained(directory)
    (directory / "tokenizer.json").write_text("{}")
    return directory


def logits(directory):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64).eval()
    with torch.no_grad():
        return model(input_ids=torch.arange(16)[None]).logits


def test_a_grown_directory_computes_what_its_source_does(grow, source, tmp_path):
    out = tmp_path / "grown"
    output = grow("--source", source, *EXACT, "--format", "hf", "--out", out)
    # The weights are rounded to float32, the growth's 1/3 with them.
    assert (logits(out) - logits(source)).abs().max() < 1e-4
    config = json.loads((out / "config.json").read_text())
    assert (config["n_embd"], config["n_layer"], config["dtype"]) == (96, 5, "float32")
    assert (out / "tokenizer.json").read_text() == "{}"
    certificate = json.loads((out / "certificate.json").read_text())
    assert certificate["verdict"] == "exact" and certificate["measured_agrees"]
    assert certificate["measured"]["max_logit_difference"] < 1e-12
    assert "exact" in output and certificate["source_digest"] in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grown", "source"]


def test_an_identity_growth_is_an_export(grow, source, tmp_path):
    grow("--source", source, "--format", "hf", "--out", tmp_path / "same")
    before, after = (load_file(d / "model.safetensors") for d in (source, tmp_path / "same"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    # Of a source without a ledger none is made up.
    assert not (tmp_path / "same" / "ledger.json").exists()


def test_a_directory_has_a_card_and_says_where_text_ends(grow, source, tmp_path):
    (source / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((source / "config.json").read_text()) | {"eos_token_id": 3}
    (source / "config.json").write_text(json.dumps(config))
    words = ("--source", source, "--target", "hidden_size=64,num_hidden_layers=4", "--width", "fpi", "--depth", "last_layer")
    grow(*words, "--format", "hf", "--out", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    for some in (f"Its source was `{source}`.", "layers 3 -> 4, hidden size 32 -> 64", "Predicted: exact"):
        assert some in card
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == 3
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == config["n_positions"]
    grow(*words, "--format", "zero3", "--out", tmp_path / "zero")
    assert not list((tmp_path / "zero").rglob("README.md"))


def test_dropout_stays_the_sources_unless_it_is_said(grow, source, tmp_path):
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"attn_pdrop": 0.1, "embd_pdrop": 0.2, "resid_pdrop": 0.3}))
    for name, words, expected in (("same", (), (0.1, 0.2, 0.3)), ("said", ("--target", "dropout=0.25"), (0.25,) * 3)):
        grow("--source", source, *words, "--format", "hf", "--out", tmp_path / name)
        written = json.loads((tmp_path / name / "config.json").read_text())
        assert (written["attn_pdrop"], written["embd_pdrop"], written["resid_pdrop"]) == expected


def test_growth_into_float64_is_exact_to_the_last_digits(grow, source, tmp_path):
    grow("--source", source, *EXACT, "--format", "hf", "--dtype", "float64", "--out", tmp_path / "wide")
    # 1/3 in float64, where it is in float32 otherwise.
    assert (logits(tmp_path / "wide") - logits(source)).abs().max() < 1e-12


@pytest.mark.parametrize(("ranks", "dtype"), [(1, "float16"), (2, "float32"), (3, "bfloat16")])
def test_a_zero_checkpoint_holds_the_same_weights_as_the_directory(grow, source, tmp_path, ranks, dtype):
    common = ("--source", source, *EXACT, "--seed", "5", "--width", "nai", "--noise", "1e-2")
    grow(*common, "--format", "hf", "--out", tmp_path / "hf")
    words = ("--format", "zero3", "--world_size", ranks, "--dtype", dtype, "--out", tmp_path / "zero")
    grow(*common, *words)
    expected = load_file(tmp_path / "hf" / "model.safetensors")
    read = get_fp32_state_dict_from_zero_checkpoint(str(tmp_path / "zero"))
    assert all(torch.equal(read[name], tensor) for name, tensor in expected.items())
    assert json.loads((tmp_path / "zero" / "certificate.json").read_text())["world_size"] == ranks
    assert AutoConfig.from_pretrained(tmp_path / "zero" / TAG).dtype is getattr(torch, dtype)


def test_a_tokenizer_goes_through_a_zero_checkpoint(grow, source, tmp_path):
    """Whatever else of that name lies above the checkpoint."""
    (tmp_path / "data.json").write_text("{}")
    grow("--source", source, "--format", "zero3", "--out", tmp_path / "zero")
    assert [path.parent.name for path in (tmp_path / "zero").rglob("tokenizer.json")] == [TAG]
    for name in ("whole", "tag"):
        origin = tmp_path / "zero" / ("" if name == "whole" else TAG)
        grow("--source", origin, "--format", "hf", "--out", tmp_path / name)
        assert (tmp_path / name / "tokenizer.json").read_text() == "{}"


def test_a_growth_that_belies_its_promise_is_a_fault_and_leaves_nothing(started, source, tmp_path, monkeypatch):
    """The growth that is measured moves a logit, as one of the plan's rules gone wrong would."""
    compare = offline.compare
    monkeypatch.setattr(offline, "compare", lambda *models: compare(*models) | {"max_logit_difference": 1e-3})
    status, _, error = started("--source", source, *EXACT, "--format", "hf", "--out", tmp_path / "out")
    assert status == 1 and "RuntimeError" in error and "please report it" in error
    assert list(tmp_path.iterdir()) == [source]


def same(left, right):
    """Whether two tensors, or two numbers, of states are the same bits."""
    if isinstance(left, float) or isinstance(right, float):
        return left == right
    return torch.equal(left.rows(0, left.shape[0]), right.rows(0, right.shape[0]))


def test_a_run_is_exported_with_its_tokenizer(grow, undisturbed, tmp_path):
    grow("--source", undisturbed.run_dir, "--format", "hf", "--out", tmp_path / "out")
    trained, exported = (load_file(d / "model.safetensors") for d in (undisturbed.run_dir / "model", tmp_path / "out"))
    assert trained.keys() == exported.keys() and all(torch.equal(trained[name], exported[name]) for name in trained)
    own = (undisturbed.run_dir / "model" / "tokenizer.model").read_bytes()
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == own


def test_a_run_moves_to_another_number_of_ranks_with_its_optimizer_state(grow, undisturbed, tmp_path):
    words = ("--format", "zero3", "--world_size", "3", "--optimizer_state", "grow", "--out", tmp_path / "out")
    grow("--source", undisturbed.run_dir, *words)
    before, after = open_source(undisturbed.run_dir), open_source(tmp_path / "out")
    assert before.state.keys() == after.state.keys()
    assert all(same(tensor, after.state[name]) for name, tensor in before.state.items())
    for name, kept in before.optimizer.items():
        assert all(same(value, after.optimizer[name][key]) for key, value in kept.items()), name
        assert kept["step"] > 0


def test_a_runs_optimizer_state_grows_with_its_weights(grow, undisturbed, tmp_path):
    """bert2BERT's factors by hand: two copies of each channel, each with half the gradient of an embedding's row."""
    target = ("--target", "hidden_size=96", "--optimizer_state", "grow", "--width", "fpi", "--depth", "last_layer")
    words = ("--format", "zero3", "--world_size", "2", "--out", tmp_path / "out")
    grow("--source", undisturbed.run_dir, *target, *words)
    before, after = open_source(undisturbed.run_dir), open_source(tmp_path / "out")
    name = "transformer.wte.weight"
    for key, factor in (("exp_avg", 2), ("exp_avg_sq", 4)):
        small, large = (source.optimizer[name][key] for source in (before, after))
        small, large = small.rows(0, small.shape[0]), large.rows(0, large.shape[0])
        assert torch.equal(large, torch.cat([small, small], dim=1) / factor)
    assert before.optimizer[name]["step"] == after.optimizer[name]["step"]


def test_the_target_may_be_a_configuration_file(grow, source, tmp_path):
    config = GPT2Config.from_pretrained(source, n_embd=64, n_layer=4, n_head=8, n_inner=256)
    config.save_pretrained(tmp_path / "wanted")
    words = ("--source", source, "--target", tmp_path / "wanted" / "config.json", "--format", "hf", "--out", tmp_path / "grown")
    grow(*words)
    written = json.loads((tmp_path / "grown" / "config.json").read_text())
    assert (written["n_embd"], written["n_layer"], written["n_head"]) == (64, 4, 8)


@pytest.fixture
def with_moments(source, tmp_path, monkeypatch):
    """A maker of checkpoints of the source whose Adam state is made up, one moment of which is at choice."""

    def make(moment=0.01):
        directory = tmp_path / f"moments-{moment}"
        directory.mkdir()
        opened = open_source(source)
        optimizer = {
            name: {"exp_avg": Constant(tensor.shape, 0.01), "exp_avg_sq": Constant(tensor.shape, 1e-4), "step": 3.0}
            for name, tensor in opened.state.items()
        }
        last = [*optimizer][-1]
        optimizer[last]["exp_avg"] = Constant(opened.state[last].shape, moment)
        with monkeypatch.context() as patched:
            # NaN too, which other writers let pass.
            patched.setattr(zero_files, "stored_as", lambda values, dtype, name: values.to(dtype))
            write_zero3(directory, opened.config, opened.state, 2, optimizer=optimizer)
        return directory

    return make


def test_the_certificate_names_the_optimizer_state_that_was_grown(grow, with_moments, tmp_path):
    digests = {}
    for moment, kept in ((0.01, "grow"), (0.02, "grow"), (0.03, "fresh")):
        out = tmp_path / f"out-{moment}"
        words = ("--optimizer_state", kept, "--format", "zero3", "--out", out)
        grow("--source", with_moments(moment), *words)
        certificate = json.loads((out / "certificate.json").read_text())
        digests[moment] = certificate["source_digest"], certificate["optimizer_digest"]
    assert digests[0.01][0] == digests[0.02][0] == digests[0.03][0]
    assert digests[0.01][1] != digests[0.02][1] and len(digests[0.01][1]) == 32
    assert digests[0.03][1] is None


def test_an_optimizer_state_with_nan_is_refused_where_it_is_grown(grow, refused, with_moments, tmp_path):
    words = ("--source", with_moments(float("nan")), "--format", "zero3")
    refused(*words, "--optimizer_state", "grow", says="ln_f.bias.exp_avg' holds nan at [0]")
    grow(*words, "--out", tmp_path / "out")


def told_memory(output):
    line = next(line for line in output.splitlines() if line.startswith("memory"))
    return float(line.split()[1]), line


@pytest.mark.parametrize(
    ("format", "dtype", "bytes_each"),
    [
        # fp32 master and two moments; weight, gradient; the gradient in fp32 while it is stepped.
        ("hf", "float32", 12 + 8),
        ("hf", "float64", 12 + 8),
        ("hf", "bfloat16", 12 + 4 + 4),
        ("zero3", "float16", 12 + 4 + 4),
    ],
)
def test_a_dry_run_tells_the_memory_of_training(grow, source, tmp_path, format, dtype, bytes_each):
    words = ("--format", format, "--world_size", "2", "--dtype", dtype, "--out", tmp_path / "out", "--dry_run")
    # Large enough for the three digits that are printed.
    output = grow("--source", source, "--target", "hidden_size=1024,num_hidden_layers=6", *words)
    with torch.device("meta"):
        config = GPT2Config.from_pretrained(source, n_embd=1024, n_layer=6, n_head=128, n_inner=4096)
        count = sum(parameter.numel() for parameter in GPT2LMHeadModel(config).parameters())
    memory, line = told_memory(output)
    assert memory == pytest.approx(count / 2 * bytes_each / 2**30, abs=6e-4) and "on each of 2 ranks" in line


def test_a_dry_run_tells_the_memory_of_a_grown_optimizer_state(grow, with_moments, tmp_path):
    words = ("--format", "zero3", "--out", tmp_path / "out", "--dry_run")
    target = ("--target", "hidden_size=1024,num_hidden_layers=6", "--width", "fpi", "--depth", "last_layer")
    grown = ("--optimizer_state", "grow")
    memory = {}
    for name, options in (("fresh", ()), ("grown", grown), ("rates", (*grown, "--element_rates", "true"))):
        output = grow("--source", with_moments(len(memory) / 100), *target, *words, *options)
        memory[name], line = told_memory(output)
    assert "exp_avg, exp_avg_sq, step, lr_factor, eps_factor in float32" in line
    # Five numbers in fresh training: master, moments, weight, gradient. New layers' elements count steps of their own.
    assert memory["grown"] / memory["fresh"] == pytest.approx(6 / 5, rel=2e-3)
    assert memory["rates"] / memory["fresh"] == pytest.approx(8 / 5, rel=2e-3)


def test_a_dry_run_needs_no_more_of_the_source_than_its_configuration(grow, refused, source, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((source / "config.json").read_bytes())
    words = (*EXACT, "--format", "zero3", "--world_size", "4")
    dry = ("--out", tmp_path / "out", "--dry_run")
    pages = {place: grow("--source", place, *words, *dry).replace(str(place), "SOURCE") for place in (source, bare)}
    assert pages[bare] == pages[source] and "each of 4 ranks reads up to" in pages[bare] and "sends nothing" in pages[bare]
    refused("--source", bare, *words, says="the directory has no weights")


def test_a_dry_run_names_every_tensor_and_writes_nothing(grow, source, tmp_path):
    out = tmp_path / "grown"
    words = ("--format", "zero3", "--world_size", "4", "--dtype", "bfloat16", "--out", out, "--dry_run")
    output = grow("--source", source, *EXACT, *words)
    sizes = {name: tensor.shape for name, tensor in load_file(source / "model.safetensors").items()}
    assert "transformer.h.4.mlp.c_fc.weight  [96, 384]" in output
    assert output.count("transformer.") >= len(sizes)
    assert "function: exact" in output
    assert "on each of 4 ranks" in output and "read " in output and "written " in output
    assert list(tmp_path.iterdir()) == [source]


def test_every_option_of_growth_is_a_flag(grow):
    output = grow("--help")
    assert all(f"--{name}" in output for name in GrowthConfig.model_fields)


def test_a_directory_that_is_not_empty_is_not_touched(started, source, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "note").write_text("mine")
    status, _, error = started("--source", source, "--format", "hf", "--out", out)
    assert status == 2 and f"{out}: exists and is not an empty directory" in error
    assert [path.name for path in out.iterdir()] == ["note"] and (out / "note").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--target", "hidden=64"), "unknown key 'hidden'; did you mean 'hidden_size'?"),
        (("--target", "64"), "'64' is neither key=value nor a .json file"),
        (("--target", "hidden_size=64,hidden_size=128"), "--target: hidden_size has a value already; name it once"),
        (("--target", "hidden_size=16"), "target.hidden_size: 16 is smaller than the source's 32"),
        (("--noise", "much"), "command line: noise"),
        (("--noise", "{"), "--noise: '{' is no value"),
        (("--layers", "[0,1"), "--layers: '[0,1' is no value"),
        (("--noise", "0.1"), "`noise` is an option of width: nai"),
        (("--target", "no.json"), "no.json: no such file"),
        (("--world_size", "0"), "--world_size: 0"),
        (("--world_size", "2"), "world_size: a Hugging Face directory has no ranks"),
        (("--format", "zero3", "--dtype", "float64"), "dtype: DeepSpeed does not train in float64"),
        (("--source", "/nowhere"), "/nowhere/config.json: no such file"),
        # What only training can do, or what the source, or the form of the target, has none of.
        (
            ("--target", "hidden_size=48", "--width", "fpi", "--norm_statistics", "weighted"),
            "growth.norm_statistics: norms are weighted in training, never in a file; use launch/pretrain.py",
        ),
        (("--optimizer_state", "grow"), "growth.optimizer_state: a Hugging Face directory holds no optimizer"),
        (("--optimizer_state", "grow", "--format", "zero3"), "growth.optimizer_state: grow needs the source's optimizer state"),
        ((*EXACT, "--added", "{warmup_steps: 100}"), "choose optimizer_state: grow"),
        ((*EXACT, "--added", "{warmup_steps: 100}", "--format", "zero3"), "growth.added"),
    ],
)
def test_wrong_input_is_refused_in_a_sentence(refused, source, words, says):
    refused("--source", source, "--format", "hf", *words, says=says)


@pytest.mark.parametrize(
    ("family", "change", "says"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx: True is not supported"),
        ("llama", {"attention_bias": True}, "attention_bias: True is not the source's False, which growth keeps"),
        ("llama", {"mlp_bias": True}, "mlp_bias: True is not the source's False, which growth keeps"),
        ("gpt2", {"model_type": "bert"}, "model_type: 'bert' is not the source's 'gpt2'"),
        ("gpt2", {"vocab_size": 40}, "vocab_size"),
    ],
)
def test_a_target_file_that_growth_does_not_reach_is_refused(refused, tmp_path, tiny_model, family, change, says):
    tiny_model(family).save_pretrained(tmp_path / "source")
    wanted = tmp_path / "wanted.json"
    wanted.write_text(json.dumps(json.loads((tmp_path / "source" / "config.json").read_text()) | change))
    refused("--source", tmp_path / "source", "--target", wanted, "--format", "hf", says=f"{wanted}: {says}")


def test_a_source_with_nan_is_refused(refused, source):
    tensors = load_file(source / "model.safetensors")
    tensors["transformer.h.1.ln_2.bias"][5] = float("nan")
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    refused("--source", source, *EXACT, "--format", "hf", says="'transformer.h.1.ln_2.bias' holds nan at [5]")


@pytest.mark.parametrize("words", [(), ("--dry_run",)])
def test_what_was_not_named_is_told_and_so_is_that_it_is_not_exact(grow, tmp_path, tiny_model, words):
    """A post-LN model of x1.5 and more layers: nothing is exact in a file, and something is done all the same."""
    tiny_model("bert").save_pretrained(tmp_path / "bert")
    out, target = tmp_path / "out", ("--target", "hidden_size=48,num_hidden_layers=5")
    output = grow("--source", tmp_path / "bert", *target, "--format", "hf", "--out", out, *words)
    assert "num_attention_heads: 4 -> 6; the target does not name it, so it is set to hidden_size / head_dim" in output
    assert "width: average_pad, since no operator is exact under a stock post-LN norm at 32 -> 48" in output
    assert "depth: last_layer, since each added layer of a post-LN model normalizes once more" in output
    assert "function: approximate" in output
    if not words:
        certificate = json.loads((out / "certificate.json").read_text())
        assert certificate["choices"] and all(choice in output for choice in certificate["choices"])
        card = (out / "README.md").read_text()
        assert all(choice in card for choice in certificate["choices"])


@pytest.mark.parametrize("words", [("--format", "hf"), ("--format", "zero3", "--world_size", "2")])
def test_a_full_disk_leaves_nothing(refused, source, words):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        refused("--source", source, *EXACT, *words, says="free disk space")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("words", [("--format", "hf"), ("--format", "zero3", "--world_size", "2")])
def test_a_killed_growth_leaves_nothing_that_looks_whole(launch, tmp_path, words):
    """28M values with noise take a second or two to write; the kill comes as soon as there is a file."""
    small, out, temporary = tmp_path / "small", tmp_path / "out", tmp_path / "out.partial"
    GPT2LMHeadModel(GPT2Config(n_embd=256, n_layer=2, n_head=4, vocab_size=2000, n_positions=16)).save_pretrained(small)
    noise = ("--target", "hidden_size=768", "--width", "nai", "--noise", "0.1")
    command = ["launch/grow.py", "--source", str(small), *noise, *words, "--out", str(out)]
    killed = launch.script(command, out)
    wait_for(lambda: any(path.stat().st_size for path in temporary.rglob("[!.]*") if path.is_file()), killed)
    killed.kill()
    assert not out.exists() and temporary.exists()
    launch.script(command, out).finish()
    assert (out / "certificate.json").exists() and not temporary.exists()


@pytest.mark.parametrize("format", ["hf", "zero3"])
def test_what_the_source_cost_goes_along(grow, source, tmp_path, format):
    ledger = Ledger(wasted=5)
    ledger.add("full", StepFlops())
    ledger.inherit("models/downloaded", None)
    write_ledger(source, ledger)
    grow("--source", source, *EXACT, "--format", format, "--out", tmp_path / "out")
    assert read_inherited(open_source(tmp_path / "out").directory) == ledger
    # And through a second growth.
    grow("--source", tmp_path / "out", "--format", "zero3", "--out", tmp_path / "again")
    assert read_inherited(open_source(tmp_path / "again").directory) == ledger


def test_a_name_on_the_hub_is_grown_as_the_directory_that_it_stands_for(grow, refused, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serving(Hub({"someone/small": {"main": source, "v2": source}})) as hub:
        ask(monkeypatch, hub.endpoint, tmp_path / "cache")
        words = ("--source", "someone/small", *EXACT, "--format", "hf")
        output = grow(*words, "--out", tmp_path / "grown", "--dry_run")
        assert "model.safetensors" not in hub.downloads
        assert "source: the Hugging Face hub's someone/small at commit " + hub.commit("someone/small", "main") in output
        grow(*words, "--out", tmp_path / "grown", "--revision", "v2")
    grow("--source", source, *EXACT, "--format", "hf", "--out", tmp_path / "same")
    assert torch.equal(logits(tmp_path / "grown"), logits(tmp_path / "same"))
    assert (tmp_path / "grown" / "tokenizer.json").is_file()
    certificate, commit = json.loads((tmp_path / "grown" / "certificate.json").read_text()), hub.commit("someone/small", "v2")
    assert certificate["remarks"] == [f"the Hugging Face hub's someone/small at commit {commit}"]
    assert certificate["source_path"].endswith(f"models--someone--small/snapshots/{commit}")
    ask(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache", offline=True)
    refused(*words, "--revision", "v3", says="'someone/small' is no directory here; on the Hugging Face hub, nothing is looked")


def test_how_a_classifier_was_read_is_told_in_the_listing_the_output_the_certificate_and_the_card(grow, tmp_path):
    """From DistributedDataParallel, under a stale quantization: each thing that is not as config.json has it."""
    source, out = tmp_path / "source", tmp_path / "grown"
    config = BertConfig(vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    BertForSequenceClassification(config).save_pretrained(source)
    path = source / "model.safetensors"
    save_file({f"module.{name}": tensor for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    described = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(described | {"quantization_config": {"quant_method": "gptq"}}))
    remarks = (
        "the tensors' names lose module.",
        "bert.pooler, classifier: no part of a BertForMaskedLM, and left out of what is grown",
        "cls.predictions: not among the weights, and at the class's random initialization",
        "config.json has a quantization_config (gptq), and the weights are plain: the key is left out",
    )
    words = ("--source", source, "--target", "hidden_size=64", "--format", "hf", "--out", out)
    listed = grow(*words, "--dry_run")
    output = grow(*words)
    assert json.loads((out / "certificate.json").read_text())["remarks"] == list(remarks)
    card = (out / "README.md").read_text()
    for remark in remarks:
        assert f"source: {remark}\n" in listed and f"source: {remark}\n" in output and f"- {remark}.\n" in card
    assert "inexact" not in output
    AutoModelForMaskedLM.from_pretrained(out)
