"""Model cards: what is known of a model and nothing else."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from data_prep.manifest import FORMAT
from pipeline.common.errors import UserError
from pipeline.families import FAMILIES
from pipeline.flops.counts import PARTS, StepFlops
from pipeline.flops.ledger import Ledger
from pipeline.recipe import load_recipe
from pipeline.report.card import Known, growths_and_step, known_of_run, model_card, run_of
from pipeline.runs import JsonLines
from tests.pipeline.growth import check
from tests.pipeline.growth.models import small_model
from tests.pipeline.report.grown_runs import finished_run

QUICKSTART = Path(__file__).parents[3] / "launch" / "recipes" / "quickstart.yaml"


@pytest.fixture
def run(tmp_path):
    """A run of two stages that grew a GPT-2 of 3 layers x 32."""
    run, _ = finished_run(
        tmp_path / "run", "gpt2", {"width": "fpi", "depth": "stack"}, {"hidden_size": 48, "num_hidden_layers": 5}
    )
    run.checkpoints.mkdir()
    run.recipe.write_text(load_recipe(QUICKSTART, ["seed=7"]).to_yaml())
    certificate = json.loads(run.certificate(1).read_text())
    certificate["measured"] |= {"tokens": "random", "source_loss": 4.0, "grown_loss": 4.5}
    run.certificate(1).write_text(json.dumps(certificate))
    for step, stage, loss in ((10, "source", 4.25), (10, "grown", 4.75), (30, "full", 3.5)):
        JsonLines(run.evaluations, dict).append({"step": step, "stage": stage, "loss": loss})
    return run


def known(run, ledger=None, growths=1, step=30) -> Known:
    return known_of_run(run, small_model("gpt2").config, "float32", "do it", ledger, growths, step)


def ledger() -> Ledger:
    flops = dict.fromkeys(PARTS, 0) | {"ffn": 10**12}
    spent = Ledger(wasted=5 * 10**9)
    spent.add("full", StepFlops(flops, flops))
    spent.inherit("models/small", None)
    return spent


def test_a_card_says_what_a_run_left(run):
    text = model_card(known(run, ledger()))
    for words in (
        "Width by `fpi`, depth by `stack`",
        "layers 3 -> 5, hidden size 32 -> 48",
        "2 layers added",
        "inexact by design",
        "channels are copied 1 and 2 times under one LayerNorm",
        "the loss from 4.000000 to 4.500000",
        "| full | 1e+12 | 1e+12 |",
        "| taken again after a crash or a rewind |  | 5e+09 |",
        "| pre-training of models/small |  | not known |",
        "| held-out text | full, step 30 | loss | 3.5000 |",
        "seed: 7",
    ):
        assert words in text, words


@pytest.mark.parametrize(
    ("examples", "note", "window", "words"),
    [
        (50, "the first 50 of 1234 examples", 32, "50 examples, the first 50 of 1234 examples, a.txt, digest f00d, window 32"),
        (1234, None, 32, "1,234 examples, a.txt, digest f00d, window 32"),
        (1, None, 64, "1 example, a.txt, digest f00d, window 64"),
    ],
)
def test_scores_of_one_task_say_what_each_is_of(run, examples, note, window, words):
    score = {"step": 30, "stage": "full", "task": "lambada", "metrics": {"accuracy": 0.5}, "deviations": None}
    score |= {"model": "run", "model_digest": None, "seconds": 1.0, "settings": {"window": window, "chosen": {"lr": 1}}}
    data = {"source": "a.txt", "digest": "f00d", "examples": examples, "note": note}
    JsonLines(run.scores, dict).append(score | {"data": data})
    assert f"| lambada | full, step 30 | accuracy | 0.5000 | {words} |" in model_card(known(run))


def test_the_front_matter_is_what_hugging_face_reads(run):
    data = ModelCard(model_card(known(run))).data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert data.tags == ["gpt2", "model-growth", "deepspeed"] and data.license is None and data.base_model is None


def test_a_card_of_a_source_says_nothing_of_what_came_after(run):
    assert growths_and_step(run, run.source_model) == (0, 10)
    text = model_card(known(run, None, *growths_and_step(run, run.source_model)))
    assert "source, step 10" in text and "from one of" not in text and "full, step" not in text and "Width by" not in text


def test_of_a_model_from_elsewhere_only_what_is_known_is_said():
    text = model_card(Known(small_model("bert with pairs").config, "float32", "do it", source="models/bert"))
    assert ModelCard(text).data.base_model is None and "Its source was `models/bert`." in text
    assert "AutoModelForPreTraining" in text and "fill-mask" in text
    for section in ("Data", "Compute", "Scores", "How it was made", "Whether growth kept"):
        assert f"## {section}" not in text


def test_a_card_of_a_mixture_tells_what_a_token_meets():
    config = check.small_config(FAMILIES["mixtral"])
    text, graph = model_card(Known(config, "float32", "do it")), FAMILIES["mixtral"].graph(config)
    assert f"| parameters | {graph.parameters:,} |" in text
    assert f"| active parameters, which a token meets | {graph.active_parameters:,} |" in text
    assert f"| experts | {config.num_local_experts} |" in text and "| experts a token goes through | 2 |" in text


def test_what_there_is_to_say_of_how_the_source_was_read_is_on_the_card(run):
    certificate = json.loads(run.certificate(1).read_text())
    run.certificate(1).write_text(json.dumps(certificate | {"remarks": ["the head was absent"]}))
    for one in (known(run), Known(small_model("gpt2").config, "float32", "do it", remarks=("the head was absent",))):
        assert "How the source was read:\n\n- the head was absent.\n" in model_card(one)


def test_data_that_is_gone_is_named_by_its_fingerprint_alone(run):
    run.data.write_text(json.dumps({"prepared": "nowhere", "fingerprint": "f00", "weights": {}, "steps": {}}))
    text = model_card(known(run))
    assert "f00" in text and "| corpus |" not in text


@pytest.mark.parametrize("content", ["{}", "no JSON", '{"prepared": "nowhere", "fingerprint": 5, "weights": {}, "steps": {}}'])
def test_a_damaged_file_of_the_run_is_named_and_no_card_written(run, content):
    run.data.write_text(content)
    with pytest.raises(UserError, match=r"data\.json: .*; put it back as the run wrote it"):
        known(run)


def test_the_run_of_a_checkpoint_or_an_export_is_found(run, tmp_path):
    for place in (run.path, run.model, run.checkpoints / "step-00000010"):
        assert run_of(place).path == run.path
    assert run_of(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("kind", ["PreTrainedTokenizerFast", "sentencepiece"])
def test_a_card_loads_the_tokenizer_by_what_reads_it(run, kind):
    tokenizer = {
        "format": FORMAT,
        "vocab_size": 5,
        "tokenizer": f"{kind} tokenizer.model:0",
        "config": {"tokenizer": {"split_special_tokens": True}},
    }
    text = model_card(replace(known(run, ledger()), data={"fingerprint": "0"}, manifest={"corpora": [], **tokenizer}))
    assert "`split_special_tokens=True`" in text
    assert ("SentencePieceProcessor" in text, "AutoTokenizer" in text) == (kind == "sentencepiece", kind != "sentencepiece")
