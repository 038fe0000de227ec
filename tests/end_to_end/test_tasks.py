"""Zero-shot tasks during training: scored with the engine, cut back where a run goes on, the same figures as afterwards."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.evaluation.models import huggingface_directory, scorer_of
from pipeline.evaluation.scores import read_scores
from pipeline.evaluation.zero_shot.evaluate import Options, score_tasks
from pipeline.runs import RunPaths
from tests.conftest import make_documents
from tests.end_to_end.conftest import FP32, write_recipe
from tests.evaluated import open_model

EVERY = 6


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "own.txt"
    path.write_text(" ".join(make_documents(4, seed=9)))
    return path


@pytest.fixture(scope="module")
def finished(launch, prepared, text, tmp_path_factory):
    """A run that was scored during training, by one rank. Tests that write into it copy it."""
    evaluation = {"every": 100, "windows": 9, "tasks": [f"text:{text}"], "tasks_every": EVERY}
    return launch(write_recipe(tmp_path_factory.mktemp("scored"), prepared, evaluation=evaluation)).finish()


def test_a_run_scores_its_models_at_the_ends_of_stages_and_in_between(finished, text):
    run = RunPaths(finished.run_dir)
    scores = read_scores(run.scores)
    steps = [("source", 6), ("source", 8), ("submodels", 12), ("submodels", 14), ("full", 18), ("full", 22)]
    assert [(score.stage, score.step) for score in scores] == steps
    assert "full: step 22, text:" in finished.output
    for number, directory in ((-1, run.model), (1, run.source_model)):
        model = open_model(directory)
        scorer = scorer_of(model.module, model.family, model.module, model.module.device)
        (afterwards,) = score_tasks([f"text:{text}"], scorer, model.family, model.encoder, None, Options())
        # Float32 products of other shapes.
        assert afterwards.metrics == pytest.approx(scores[number].metrics, rel=1e-5)
        assert (model.stage, model.step) == steps[number]


def test_scores_behind_the_checkpoint_are_cut_off_and_taken_again(launch, finished, tmp_path):
    run = RunPaths(shutil.copytree(finished.run_dir, tmp_path / "run"))
    before = read_scores(run.scores)
    run.summary.unlink()
    shutil.rmtree(run.checkpoints / "step-00000022")
    (run.checkpoints / "latest").write_text("step-00000020")
    recipe = finished.run_dir.parent / "recipe.yaml"
    # Tasks may be asked for at other steps from there on.
    launch(recipe, f"run_dir={run.path}", "evaluation.tasks_every=21").finish()
    after = read_scores(run.scores)
    assert [score.step for score in after] == [6, 8, 12, 14, 18, 21, 22]
    assert after[:5] == before[:5]
    assert after[-1].metrics == before[-1].metrics


def test_a_checkpoint_is_exported_for_what_wants_a_directory(finished):
    run = RunPaths(finished.run_dir)
    with huggingface_directory(run.checkpoints / "step-00000022") as directory:
        exported = AutoModelForCausalLM.from_pretrained(directory).state_dict()
        assert AutoTokenizer.from_pretrained(directory).get_vocab()
    left = AutoModelForCausalLM.from_pretrained(run.model).state_dict()
    assert all(torch.equal(exported[name], left[name]) for name in left)
    assert not directory.exists()


@pytest.mark.full
def test_two_processes_of_which_neither_holds_the_model_score_what_the_run_did(launch, finished, text, tmp_path):
    run = RunPaths(shutil.copytree(finished.run_dir, tmp_path / "run"))
    before = read_scores(run.scores)
    ds_config = tmp_path / "ds.json"
    ds_config.write_text(json.dumps(FP32))
    words = ["--model", str(run.path), str(run.source_model), "--task", f"text:{text}", "--ds_config", str(ds_config)]
    launch.command(["deepspeed", "--num_accelerators", "2", "launch/evaluate.py", *words], run.path).finish()
    own, source = read_scores(run.scores)[len(before) :]
    # Float32 products of other shapes.
    assert own.metrics == pytest.approx(before[-1].metrics, rel=1e-5)
    assert source.metrics == pytest.approx(before[1].metrics, rel=1e-5)
    assert (own.stage, own.step, source.stage, source.step) == ("full", 22, "source", 8)
