"""Every command of the README runs, made small, and its example recipe is valid."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.recipe import Recipe
from tests.end_to_end.conftest import ROOT
from tests.typed import typed

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    ((?:make|deepspeed|mpiexec|python|sbatch) .*)$", README, flags=re.MULTILINE)
QUICKSTART = next(command for command in COMMANDS if command.startswith("deepspeed"))
MY_RECIPE = re.search(r"```yaml\n(# my\.yaml\n.*?)```", README, flags=re.DOTALL).group(1)


def smaller(directory: Path, prepared) -> list[str]:
    """Overrides that leave a command's path through the code and shrink what it works on."""
    return [
        f"run_dir={directory / 'run'}",
        "data.text=null",
        "data.tokenizer=null",
        f"data.shards={prepared.directory}",
        "data.sequence_length=32",
        "train_batch_size=4",
        "evaluation.windows=4",
        "stages=[{name: submodels, submodel_layers: 3, steps: 2}, {name: full, steps: 2}]",
    ]


def test_the_commands_are_the_ones_tested_here():
    assert COMMANDS[:2] == ["make pretrain", "make test"]
    assert [command.split()[0] for command in COMMANDS[2:]] == [
        *["deepspeed"] * 2,
        *["python"] * 3,
        *["deepspeed"] * 3,
        *("python", "mpiexec", "python", "python"),
        "make",  # `make gpu`, in tests/test_gpu_kit.py
        "sbatch",  # in tests/slurm
        *["python"] * 2,
    ]


def test_the_example_recipe_is_valid():
    recipe = Recipe.model_validate(yaml.safe_load(MY_RECIPE))
    assert recipe.stages[0].submodel_layers == 3


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("deepspeed")])
def test_a_deepspeed_command_runs(command, launch, prepared, tiny_model, tmp_path):
    words = shlex.split(command)
    overrides = smaller(tmp_path, prepared)
    if "my.yaml" in words:
        recipe = tmp_path / "my.yaml"
        recipe.write_text(MY_RECIPE)
        words[words.index("my.yaml")] = str(recipe)
        source = tmp_path / "source"
        model = tiny_model("gpt2", vocab=406).float()
        model.config.n_positions = 32
        type(model)(model.config).save_pretrained(source)
        overrides += [f"source.path={source}", "target.hidden_size=64", "target.num_hidden_layers=6"]
    elif "scratch.yaml" not in command:
        overrides += ["source.steps=2"]
    if command == QUICKSTART:
        run = launch.command([*words, *overrides], tmp_path / "run")
    else:
        # What DeepSpeed's launcher makes of its options is seen in the first.
        given, script = words[1 : words.index("launch/pretrain.py")], words[words.index("launch/pretrain.py") :]
        ranks = int(given[1]) if given[:1] == ["--num_accelerators"] else 1
        run = launch.script([*script, *overrides], tmp_path / "run", ranks)
    finished = run.wait()
    assert finished.status == 0, finished.error
    assert ("after training" in finished.output) == ("--print_config" not in command)


def test_a_dry_run_says_what_a_run_would_be(launch):
    (command,) = (command for command in COMMANDS if command.startswith("python launch/pretrain.py"))
    finished = launch.script(shlex.split(command)[1:], ROOT).wait()
    assert finished.status == 0, finished.error
    assert "submodels" in finished.output and "ZeRO" in finished.output


def left_by(words: list[str]) -> list[Path]:
    """The files that a command leaves."""
    if "--out" not in words:
        return [Path("runs/quickstart/scores.jsonl")]
    out = Path(words[words.index("--out") + 1])
    return [out] if out.suffix else [out / name for name in ("certificate.json", "model.safetensors", "README.md")]


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if re.match(r"python launch/(report|evaluate|grow)", command)]
)
def test_a_python_command_runs(command, undisturbed, tmp_path):
    """As it stands, in a folder that holds the README and the toy recipe's run in the place of those of the commands before."""
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    for name in ("scratch", "quickstart"):
        shutil.copytree(undisturbed.run_dir, tmp_path / "runs" / name)
    (tmp_path / "launch").symlink_to(ROOT / "launch")
    words = shlex.split(command)
    finished = subprocess.run(typed(words), cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    assert all((tmp_path / path).is_file() for path in left_by(words))


def test_data_is_prepared_and_looked_at(corpus, tmp_path):
    """The example configuration, but for its corpus, which is a small one."""
    prepare, inspect, report = (command for command in COMMANDS if "-m data_prep" in command)
    config = Path(shlex.split(prepare)[-1])
    content = yaml.safe_load((ROOT / config).read_text(encoding="utf-8"))
    content["corpora"][0] |= {"corpus": None, "files": [str(corpus)]}
    content["tokenizer"]["vocab_size"] = 300
    (tmp_path / config.parent).mkdir(parents=True)
    (tmp_path / config).write_text(yaml.safe_dump(content))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    for command in (prepare, report, inspect):
        words = typed(shlex.split(command))
        finished = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert finished.returncode == 0, finished.stderr
    assert "python_docs (by its tokens)" in finished.stdout
    assert (tmp_path / shlex.split(report)[-1] / "report.html").is_file()


@pytest.mark.skipif(
    Path(sys.prefix) != ROOT / ".venv", reason="not run by .venv's Python: make would install another environment"
)
def test_make_pretrain_runs(prepared, tmp_path):
    overrides = shlex.join([*smaller(tmp_path, prepared), "source.steps=2"])
    finished = subprocess.run(["make", "pretrain", f"ARGS={overrides}"], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert finished.returncode == 0, finished.stderr
    assert "after training" in finished.stdout
