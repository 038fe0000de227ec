"""launch/evaluate.py in this process: what it leaves, and what it refuses in one sentence."""

import dataclasses
import json
import shutil
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from pipeline.cli import evaluate as launched
from pipeline.commands import evaluate as module
from pipeline.commands import task_kinds
from pipeline.common.errors import UserError
from pipeline.common.files import locked, write_atomically
from pipeline.evaluation.models import huggingface_directory
from pipeline.evaluation.scores import Score, Scored, read_scores
from pipeline.growth.huggingface import open_huggingface
from pipeline.growth.inspection import inspect
from pipeline.growth.sources import open_source
from pipeline.growth.zero_files import TAG, write_zero3
from pipeline.runs import RunPaths
from tests.hub import Hub, ask, serving
from tests.pipeline.report.recorded_runs import Made


@pytest.fixture
def evaluate(monkeypatch, capsys):
    """Run a command line; return status, output, error."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, words)])
        try:
            status = launched.main()
        except SystemExit as ended:
            status = ended.code
        return status, *capsys.readouterr()

    return run


GRID = ("--learning_rates", 1e-3, "--tuning_batch_sizes", 4, "--epochs", 1, "--seeds", 1, "--max_train", 2)
"""One short training."""


@pytest.fixture
def score(evaluate, data, tmp_path):
    """Score a model on the first article of wikitext2; return the score and what was printed."""

    def run(model: object, *more: object) -> tuple[Score, str]:
        out = tmp_path / f"{Path(str(model)).name}.jsonl"
        words = ("--task", "wikitext2", "--data", data, "--limit", "1", "--out", out)
        status, printed, error = evaluate("--model", model, *words, *more)
        assert (status, error) == (0, "")
        return read_scores(out)[-1], printed

    return run


@pytest.fixture
def reviews(tmp_path) -> Path:
    """A folder with SST-2's files: of the texts to score three in four are good."""
    folder = tmp_path / "glue" / "SST-2"
    folder.mkdir(parents=True)
    for stem in ("train", "dev"):
        (folder / f"{stem}.tsv").write_text("sentence\tlabel\n" + "good film\t1\nbad film\t0\ngood\t1\nvery good\t1\n")
    return folder.parent


@pytest.fixture
def finished(causal, tmp_path) -> RunPaths:
    """What a finished run leaves, as far as it is looked at."""
    run = RunPaths(Made(tmp_path / "run", source_steps=3, steps=6).write())
    shutil.copytree(causal, run.model)
    shutil.copytree(causal, run.source_model)
    return run


def test_a_models_scores_go_where_out_says_and_are_replaced(evaluate, causal, data, tmp_path):
    out = tmp_path / "scores.jsonl"
    command = ("--model", causal, "--task", "wikitext2", "lambada", "--data", data, "--out", out)
    for _ in range(2):
        status, output, error = evaluate(*command)
        assert (status, error) == (0, "")
    wikitext, lambada = read_scores(out)
    assert wikitext.model_digest == inspect(open_source(causal).state, "")
    assert (wikitext.task, wikitext.stage, wikitext.step) == ("wikitext2", None, None)
    assert wikitext.data["source"] == str(data / "wikitext-2" / "wiki.test.tokens")
    assert wikitext.data["examples"] == 4
    assert f"{wikitext.metrics['word_perplexity']:.4g}" in output
    assert set(lambada.metrics) == {"perplexity", "accuracy"}
    # Other settings, another score.
    evaluate(*command, "--stride", 4, "--limit", 2)
    assert [score.data["examples"] for score in read_scores(out)] == [4, 6, 2, 2]


def changed_tokenizer(directory: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_tokens(["the "])
    tokenizer.save_pretrained(directory)
    # The model has room for it.
    assert len(tokenizer) <= json.loads((directory / "config.json").read_text())["vocab_size"]


def changed_config(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"layer_norm_epsilon": 0.1}))


@pytest.mark.parametrize("change", [changed_tokenizer, changed_config])
def test_equal_weights_computed_or_read_otherwise_have_scores_of_their_own(evaluate, causal, data, tmp_path, change):
    """In one file: the same weights under another tokenizer, or in a model of another configuration."""
    first, other = tmp_path / "first", tmp_path / "other"
    config = GPT2Config.from_pretrained(causal)
    model = GPT2LMHeadModel.from_pretrained(causal)
    model.resize_token_embeddings(config.vocab_size + 1, mean_resizing=False)
    for directory in (first, other):
        shutil.copytree(causal, directory)
        model.save_pretrained(directory)
    change(other)
    out = tmp_path / "scores.jsonl"
    # The second time nothing new is found.
    for _ in range(2):
        assert evaluate("--model", first, other, "--task", "wikitext2", "--data", data, "--out", out)[0] == 0
    one, two = read_scores(out)
    assert one.model_digest == two.model_digest and (one.model, two.model) == (str(first), str(other))
    assert one.metrics["word_perplexity"] != two.metrics["word_perplexity"]
    # Moved, it is still itself.
    (tmp_path / "other").rename(tmp_path / "moved")
    assert evaluate("--model", tmp_path / "moved", "--task", "wikitext2", "--data", data, "--out", out)[0] == 0
    assert [score.model for score in read_scores(out)] == [str(first), str(tmp_path / "moved")]


@pytest.mark.parametrize(("part", "stage", "step"), [("", "full", 9), ("model", "full", 9), ("source_model", "source", 3)])
def test_a_runs_models_are_scored_in_the_run(evaluate, finished, data, part, stage, step):
    path = finished.path / part
    assert evaluate("--model", path, "--task", "ptb", "--data", data)[0] == 0
    (score,) = read_scores(finished.scores)
    assert (score.model, score.stage, score.step) == (str(path), stage, step)


def test_a_run_that_is_going_on_is_left_alone_but_scored(evaluate, finished, data, tmp_path):
    words = ("--model", finished.path, "--task", "ptb", "--data", data)
    message = "the run is going on, and writes its scores itself; name a file with --out, or wait for it to end"
    with locked(finished.lock, wait=False):
        assert evaluate(*words) == (2, "", f"{finished.path}: {message}\n")
        assert not finished.scores.exists()
        # Its own file by another name is its own all the same.
        assert evaluate(*words, "--out", finished.scores)[0] == 2
        assert evaluate(*words, "--out", tmp_path / "out.jsonl")[0] == 0


def test_what_another_evaluation_writes_meanwhile_stays(evaluate, causal, data, tmp_path, monkeypatch):
    """Another comes between reading the file and replacing it, and has to wait."""
    out = tmp_path / "scores.jsonl"
    words = ("--model", causal, "--task", "ptb", "--data", data, "--out", out)
    evaluate(*words)
    (score,) = read_scores(out)
    other = dataclasses.replace(score, task="other")
    found = SimpleNamespace(run=None)
    writer = threading.Thread(target=module.keep, args=([other], found, out))

    def slow(path, scores):
        known = read_scores(path)
        if not writer.ident:
            writer.start()
            writer.join(timeout=0.3)
        write_atomically(path, "".join(json.dumps(one.to_json()) + "\n" for one in [*known, *scores]))

    monkeypatch.setattr(module, "record", slow)
    module.keep([dataclasses.replace(score, task="own")], found, out)
    writer.join(timeout=30)
    assert [one.task for one in read_scores(out)] == ["ptb", "own", "other"]
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_a_run_that_goes_on_is_tuned_as_it_was_found(evaluate, finished, reviews, tmp_path, monkeypatch):
    """A newer checkpoint appears between the digest and the training."""
    find = module.find_model

    def found_then_left_behind(place, **parts):
        found = find(place, **parts)
        finished.summary.unlink()
        finished.checkpoints.mkdir()
        (finished.checkpoints / "latest").write_text("step-00000010")
        return found

    tuned = []
    monkeypatch.setattr(module, "find_model", found_then_left_behind)
    scored = Scored("sst2", {}, {}, {}, 0.0)
    monkeypatch.setattr(task_kinds, "tune", lambda _, directory, *__: tuned.append(directory) or scored)
    evaluate("--model", finished.path, "--task", "sst2", "--data", reviews, "--out", tmp_path / "scores.jsonl")
    assert tuned == [finished.model]


@pytest.mark.parametrize(
    ("tasks", "given", "sentence"),
    [
        (("wikitext2", "lambada"), (), "--task: lambada asks what comes next, and bert is a masked model"),
        (("ptb", "squad"), (), "gpt2 reads from left to right; squad wants a bert or roberta"),
        (("ptb", "sst2"), (), "SST-2/train.tsv and dev.tsv are not there below"),
        (("ptb", "squad"), ("--max_length", 99), "has 32 positions, not 99; name at most so many"),
    ],
)
def test_what_one_of_several_refuses_is_refused_before_any_is_scored(
    evaluate, masked, causal, data, tmp_path, monkeypatch, tasks, given, sentence
):
    def offline(*_, **__):
        raise ConnectionError

    monkeypatch.setattr("datasets.load_dataset", offline)
    files = tmp_path / "squad"
    files.mkdir()
    for title, part in (("one", "train"), ("two", "dev")):
        asked = {"id": title, "question": "what", "answers": [{"answer_start": 0, "text": "this"}]}
        content = {"data": [{"title": title, "paragraphs": [{"context": "this it is", "qas": [asked]}]}]}
        (files / f"{part}-v1.1.json").write_text(json.dumps(content))
    models = (causal, masked) if "lambada" in tasks else (masked, causal)
    out = tmp_path / "out.jsonl"
    words = ("--model", *models, "--task", *tasks, "--data", data, files, "--out", out, *given)
    status, output, error = evaluate(*words)
    assert (status, output) == (2, "")
    assert sentence in error
    assert len(error.splitlines()) == 1
    assert not out.exists()


def test_a_folder_of_runs_is_told_from_a_model(evaluate, finished, tmp_path):
    message = "neither a run, a checkpoint nor a Hugging Face model, which has a config.json; name one of the runs in it, for"
    refused = (2, "", f"{tmp_path}: {message} instance {finished.path}\n")
    assert evaluate("--model", tmp_path, "--task", "text:" + __file__) == refused


def test_the_printed_table_says_what_part_was_scored_and_that_nothing_is_kept(evaluate, causal, data, tmp_path):
    command = ("--model", causal, "--task", "wikitext2", "--data", data)
    assert evaluate(*command, "--limit", 2)[1].splitlines()[-2:] == [
        "wikitext2: the first 2 of 4 examples",
        "the scores are not written to a file; name one with --out",
    ]
    assert "not kept" not in evaluate(*command, "--out", tmp_path / "out.jsonl")[1]


def test_beside_an_accuracy_stands_that_of_saying_one_class(evaluate, masked, reviews, tmp_path):
    out = tmp_path / "out.jsonl"
    status, output, error = evaluate("--model", masked, "--task", "sst2", "--data", reviews, "--out", out, *GRID)
    assert status == 0, error
    (score,) = read_scores(out)
    assert score.data["majority"] == 3 / 4
    assert output.splitlines()[-2:] == ["sst2: 2 of 4 training examples", "sst2: majority (always the commonest class): 0.7500"]
    assert "after epoch 1" in output


def test_of_a_finished_run_the_directory_is_its_model(finished):
    with huggingface_directory(finished.path) as directory:
        assert directory == finished.model


def _without_tokenizer(directory: Path) -> None:
    for path in directory.glob("tokenizer*"):
        path.unlink()


def _small_vocabulary(directory: Path) -> None:
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": 900, "content": "<new>"})
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(
    ("change", "words", "sentence"),
    [
        (None, ("--task", "wikitext-2"), "--task: no task 'wikitext-2'; did you mean 'wikitext2'? (a text"),
        (None, ("--task", "wikitext103"), "no file of wikitext103 there; looked for wikitext-103/test.txt, "),
        (None, ("--task", "text:absent.txt"), "absent.txt: no such file; --task text:FILE names a text of your own"),
        (None, ("--task", "ptb", "--data", "absent"), "absent: no such directory; name one with the corpora of the tasks"),
        (None, ("--task", "ptb", "--out", "absent/scores.jsonl"), "--out: absent is no directory; make it, or name another"),
        (None, ("--task", "ptb", "--window", "0"), "argument --window: 0 is not above 0"),
        (None, ("--task", "ptb", "--model", "absent"), "absent: no such directory; name a Hugging Face model, a run directory"),
        (
            _without_tokenizer,
            ("--task", "ptb"),
            "no tokenizer here; put one of these there: tokenizer.json; vocab.json with merges.txt",
        ),
        (_small_vocabulary, ("--task", "ptb"), "the tokenizer has ids up to 400, and the model's vocab_size is 400; put the"),
    ],
)
def test_wrong_use_is_one_sentence(evaluate, causal, data, tmp_path, change, words, sentence):
    model = tmp_path / "model"
    shutil.copytree(causal, model)
    if change is not None:
        change(model)
    before = sorted(tmp_path.rglob("*"))
    status, output, error = evaluate("--model", model, "--data", data, *words)
    assert (status, output) == (2, "")
    assert sentence in error
    assert len(error.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before, "nothing is left behind"


@pytest.mark.parametrize(
    ("task", "name", "configuration", "column"),
    [
        ("wikitext2", "EleutherAI/wikitext_document_level", "wikitext-2-raw-v1", "page"),
        ("wikitext103", "EleutherAI/wikitext_document_level", "wikitext-103-raw-v1", "page"),
        ("lambada", "EleutherAI/lambada_openai", "default", "text"),
        ("ptb", "ptb-text-only/ptb_text_only", "penn_treebank", "sentence"),
    ],
)
def test_without_data_the_hub_is_asked_by_name(evaluate, causal, tmp_path, monkeypatch, task, name, configuration, column):
    asked = []

    def load_dataset(*arguments, **options):
        asked.append((*arguments, options["split"]))
        return {column: [" = A = \n some words in a row "]}

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    status, _, error = evaluate("--model", causal, "--task", task, "--out", tmp_path / "out.jsonl")
    assert (status, error) == (0, "")
    assert set(asked) == {(name, configuration, "test")}
    (score,) = read_scores(tmp_path / "out.jsonl")
    assert score.data["source"] == name


def test_a_hub_that_does_not_answer_is_one_sentence(evaluate, causal, monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("no\nway")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    message = (
        "does not come from the hub (ConnectionError: no way); name a folder with its files as --data (evaluation.data in a"
    )
    refused = (2, "", f"lambada: EleutherAI/lambada_openai {message} recipe)\n")
    assert evaluate("--model", causal, "--task", "lambada") == refused


@pytest.mark.parametrize("task", ["sst2", "lm_eval:arc_easy"])
def test_tasks_that_take_whole_models_alone_refuse_partitioning(task):
    arguments = SimpleNamespace(data=None, ds_config=Path("ds_configs/zero3.json"))
    with pytest.raises(UserError, match=f"--task {task}: needs a whole model on each rank; leave --ds_config out"):
        task_kinds.task_of(task, arguments).prepare(1)


def test_without_lm_eval_its_tasks_say_what_to_install(evaluate, causal, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    message = "--task lm_eval:hellaswag: needs the package lm_eval; pip install 'growth-pretraining[harness]'\n"
    assert evaluate("--model", causal, "--task", "lm_eval:hellaswag") == (2, "", message)


def test_a_name_on_the_hub_is_scored_as_the_directory_that_it_stands_for(evaluate, score, causal, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serving(Hub({"someone/causal": {"main": causal}})) as hub:
        ask(monkeypatch, hub.endpoint, tmp_path / "cache")
        (by_name, _), (by_directory, _) = score("someone/causal"), score(causal)
        words = ("--revision", "none", "--task", "wikitext2", "--data", data)
        status, _, error = evaluate("--model", "someone/causal", *words)
        assert status == 2 and "on the Hugging Face hub, someone/causal has no revision 'none'" in error
    assert by_name.model == "someone/causal"
    assert (by_name.model_digest, by_name.metrics) == (by_directory.model_digest, by_directory.metrics)


def of_the_trainer(model: Path, folder: Path) -> Path:
    """The checkpoint that transformers' Trainer leaves of a model in an output_dir below `folder`."""
    place = folder / "output_dir" / "checkpoint-9"
    shutil.copytree(model, place, ignore=shutil.ignore_patterns("*.safetensors"))
    source = open_huggingface(model)
    write_zero3(place, source.config, source.state, 2)
    # Which the Trainer writes one folder up, or not at all.
    for name in ("config.json", "files.json", "progress.json"):
        (place / TAG / name).unlink()
    (place / "trainer_state.json").write_text('{"global_step": 9, "max_steps": 20}')
    return place


def test_a_checkpoint_of_transformers_trainer_is_scored_with_the_tokenizer_beside_it(score, causal, tmp_path):
    place = of_the_trainer(causal, tmp_path)
    (checkpoint, printed), (directory, _) = score(place.parent), score(causal)
    assert "a checkpoint of transformers' Trainer at step 9 of 20" in printed
    assert (checkpoint.model_digest, checkpoint.metrics) == (directory.model_digest, directory.metrics)
    with huggingface_directory(place) as exported:
        assert (exported / "tokenizer.json").read_bytes() == (causal / "tokenizer.json").read_bytes()


def test_of_a_trainers_checkpoint_without_its_deepspeed_files_the_weights_beside_are_scored(score, causal, tmp_path):
    place = of_the_trainer(causal, tmp_path)
    shutil.copy(causal / "model.safetensors", place)
    shutil.rmtree(place / TAG)
    scored, printed = score(place)
    assert "is not there; the weights beside it are taken" in printed
    assert scored.model_digest == inspect(open_source(causal).state, "")


def test_a_trainers_checkpoint_is_fine_tuned_with_the_tokenizer_beside_it(evaluate, masked, reviews, tmp_path):
    out, place = tmp_path / "out.jsonl", of_the_trainer(masked, tmp_path)
    status, _, error = evaluate("--model", place, "--task", "sst2", "--data", reviews, "--out", out, *GRID)
    assert status == 0, error
    assert [score.task for score in read_scores(out)] == ["sst2"]


def test_a_checkpoint_without_a_configuration_is_scored_by_the_one_that_is_named(evaluate, score, causal, data, tmp_path):
    place = of_the_trainer(causal, tmp_path)
    (place / "config.json").unlink()
    status, _, error = evaluate("--model", place, "--task", "wikitext2", "--data", data)
    assert status == 2 and "--config" in error
    assert score(place, "--config", causal)[0].model_digest == inspect(open_source(causal).state, "")
