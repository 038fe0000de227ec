"""Several jobs: the chain of pipeline.sh, data prepared under MPI, the array of a sweep."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.conftest import make_documents
from tests.end_to_end.conftest import Finished
from tests.end_to_end.test_data_prep import tree
from tests.slurm.cluster import ROOT, Cluster, Job
from tests.slurm.conftest import TWO_NODES

pytestmark = pytest.mark.slurm


def _preparation(directory: Path, corpus: Path) -> tuple[Path, Path]:
    """Write the configuration that the shared `prepared` data were made by; return it and the folder that it names."""
    path, shards = directory / "data.yaml", directory / "shards"
    corpora = [{"files": [str(corpus)], "heldout_fraction": 0.1}]
    path.write_text(yaml.safe_dump({"output_dir": str(shards), "corpora": corpora, "tokenizer": {"vocab_size": 406}}))
    return path, shards


def _submitted(cluster: Cluster, words: list[str], directory: Path, environment: dict[str, str]) -> list[Job]:
    """Submit a chain from a folder, where its logs go; the scripts name them relative to it."""
    command = ["bash", f"{ROOT}/launch/slurm/pipeline.sh", *words]
    started = cluster.attempt(*command, cwd=directory, PROJECT_ROOT=str(ROOT), **environment)
    assert started.returncode == 0, started.stderr
    return [Job(cluster, id) for id in re.findall(r"^[a-z]+ +(\d+)", started.stdout, flags=re.MULTILINE)]


def test_the_chain_prepares_trains_a_source_grows_it_evaluates_that_and_reports(corpus, prepared, toy, cluster, tmp_path):
    data, shards = _preparation(tmp_path, corpus)
    # Other lengths than the run of the other tests: what is shown here is that each job finds what the one before has left.
    toy = toy(stages=[{"name": "submodels", "submodel_layers": 2, "steps": 2}, {"name": "full", "steps": 4}])
    source = tmp_path / "source.yaml"
    small = {"run_dir": str(tmp_path / "a: small"), "target": {}, "stages": [{"name": "full", "steps": 2}]}
    content = yaml.safe_load(toy.recipe.read_text()) | small
    source.write_text(yaml.safe_dump({key: value for key, value in content.items() if key != "growth"}))
    text = tmp_path / "text.txt"
    text.write_text(" ".join(make_documents(2, seed=1)))
    chain = f"--data {data} --source {source} --train {toy.recipe} --ds_config {toy.ds_config}"
    words = [*chain.split(), "--data_job", "--nodes=2 --ntasks=2", "--source_job", "--ntasks=1"]
    words += ["--train_job", " ".join(TWO_NODES), "--evaluate", f"text:{text}", "--evaluate_job", " ".join(TWO_NODES)]
    jobs = _submitted(cluster, words, tmp_path, toy.environment())
    assert [job.fields["JobName"] for job in jobs] == ["prepare", "source", "train", "evaluate", "report"]
    assert [job.state for job in jobs[1:]] == ["PENDING"] * 4
    for job in jobs:
        assert job.wait()["JobState"] == "COMPLETED", job.account()
    assert tree(shards) == tree(prepared.directory), "two MPI ranks on two nodes leave what one process alone leaves"
    trained = Finished(0, jobs[2].log, "", tmp_path / "run")
    grown = json.loads((trained.run_dir / "certificates" / "00.json").read_text())
    assert grown["source_path"] == str(tmp_path / "a: small" / "checkpoints" / "step-00000010")
    assert [record["stage"] for record in trained.metrics] == ["submodels"] * 2 + ["full"] * 4
    (score,) = [json.loads(line) for line in (trained.run_dir / "scores.jsonl").read_text().splitlines()]
    assert (score["task"], score["step"]) == (f"text:{text}", 6)
    assert score["metrics"]["token_perplexity"] > 1
    assert "<html" in (trained.run_dir / "report.html").read_text()
    assert {path.name for path in tmp_path.glob("*.log")} == {f"{job.fields['JobName']}-{job.id}.log" for job in jobs}


def test_a_link_of_the_chain_that_fails_cancels_those_after_it(corpus, toy, cluster, tmp_path):
    data, _ = _preparation(tmp_path, corpus)
    toy = toy()
    chain = f"--data {data} --train {toy.recipe} --ds_config {toy.ds_config} --report {tmp_path}/page.html"
    jobs = _submitted(cluster, chain.split(), tmp_path, toy.environment(GROW_MPI="unknown"))
    ended = [job.wait() for job in jobs]
    assert [(fields["JobName"], fields["JobState"]) for fields in ended] == [
        ("prepare", "FAILED"),
        ("train", "CANCELLED"),
        ("report", "CANCELLED"),
    ]
    assert [path.name for path in tmp_path.glob("*.log")] == [f"prepare-{jobs[0].id}.log"], "the others have not started"


def test_each_line_of_a_sweep_is_a_run_and_one_that_is_refused_disturbs_no_other(toy, cluster, tmp_path):
    toy = toy(stages=[{"name": "full", "steps": 3}])
    runs = tmp_path / "runs.txt"
    lines = [f"--recipe {toy.recipe} seed={seed} run_dir={tmp_path}/seed-{seed}" for seed in (3, 4)]
    runs.write_text(f"{lines[0]}\n{lines[1]} train_batch_size=7\n")
    options = (f"--output={tmp_path}/%x-%a.log", "--array=1-2", "--nodes=1", "--ntasks-per-node=2")
    words = ("launch/slurm/sweep.sbatch", str(runs), "--ds_config", str(toy.ds_config), "growth.width=aki")
    array = cluster.submit(*options, *words, **toy.environment())
    first, second = (Job(cluster, f"{array.id}_{index}") for index in (1, 2))
    assert first.wait()["JobState"] == "COMPLETED", first.account()
    assert (tmp_path / "seed-3" / "summary.json").exists()
    ended = second.wait()
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "2:0"), second.account()
    assert "train_batch_size" in second.log and "Traceback" not in second.log


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--recipe 'a run_dir=b", "line 1 cannot be split into words; close its quotes"),
        ("--recipe a 'note=no run_dir=b'", "line 1 names no run_dir=...; each run needs its own"),
        ("", "line 1 is empty or not there; submit with --array=1-1"),
    ],
)
def test_a_line_of_a_sweep_that_names_no_run_of_its_own_is_refused(line, sentence, cluster, tmp_path):
    (tmp_path / "runs.txt").write_text(line + "\n")
    words = (f"--output={tmp_path}/log", "--array=1", "launch/slurm/sweep.sbatch", f"{tmp_path}/runs.txt")
    job = Job(cluster, f"{cluster.submit(*words).id}_1")
    assert job.wait()["ExitCode"] == "2:0", job.account()
    assert f"runs.txt: {sentence}" in job.log


def test_offline_growth_is_a_job_of_one_task(undisturbed, toy, cluster, tmp_path):
    words = f"--source {undisturbed.run_dir}/model --target num_hidden_layers=6 --format hf --out {tmp_path}/grown".split()
    job = cluster.submit(f"--output={tmp_path}/log", "launch/slurm/grow.sbatch", *words, **toy().environment())
    assert job.wait()["JobState"] == "COMPLETED", job.account()
    assert json.loads((tmp_path / "grown" / "config.json").read_text())["n_layer"] == 6
