"""Every command of the README and of the documents runs, made small; blocks whose title says what they need are left out."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from data_prep.manifest import PreparedData
from tests.documentation import Block, blocks
from tests.end_to_end.conftest import ROOT, Finished, Launcher
from tests.forked import Program
from tests.ranks import environments
from tests.typed import typed

RUN = [(block.page, words) for block in blocks("bash") if not block.title for words in block.commands]
COMMANDS = list({" ".join(words): (page, words) for page, words in reversed(RUN)}.values())[::-1]
"""Each command once, in the order of the pages, where it stands first."""
QUICKSTART = COMMANDS[0][1]
FILES: dict[str, Block] = {
    f"{block.page}:{block.name}": block for language in ("yaml", "python") for block in blocks(language) if block.name
}


def file_of(page: str, name: str) -> str:
    """Return the content of a file that a page tells its reader to save, or of a recipe of the project."""
    block = FILES.get(f"{page}:{name}")
    return (ROOT / name).read_text(encoding="utf-8") if block is None else block.text


def smaller(page: str, words: list[str], prepared: PreparedData) -> list[str]:
    """Return overrides that leave a training command's path through the code and shrink what it works on."""
    name = words[words.index("--recipe") + 1] if "--recipe" in words else "launch/recipes/quickstart.yaml"
    content = yaml.safe_load(file_of(page, name))
    trained = [stage["name"] for stage in content["stages"]]
    overrides = ["data.text=null", "data.tokenizer=null", f"data.shards={prepared.directory}", "train_batch_size=4"]
    overrides += ["evaluation.windows=4", "data.sequence_length=32", *(f"stages.{name}.steps=2" for name in trained)]
    if name == "my.yaml":
        overrides += ["target.hidden_size=64", "target.num_hidden_layers=6"]
    if "steps" in content["source"]:
        overrides += ["source.steps=2"]
    return overrides


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, undisturbed: Finished, corpus: Path) -> Path:
    """A folder as a reader has it after the quickstart, whose run is that of the toy recipe; its source is `models/small`."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("launch", "ds_configs", "docs", "pipeline"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "README.md", folder)
    for name in ("scratch", "quickstart"):
        shutil.copytree(undisturbed.run_dir, folder / "runs" / name)
    shutil.copytree(undisturbed.run_dir / "source_model", folder / "models" / "small")
    config = Path("data_prep/configs/python_docs.yaml")
    content = yaml.safe_load((ROOT / config).read_text(encoding="utf-8"))
    content["corpora"][0] |= {"corpus": None, "files": [str(corpus)]}
    content["tokenizer"]["vocab_size"] = 300
    (folder / config.parent).mkdir(parents=True)
    (folder / config).write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


def trained(page: str, words: list[str], workspace: Path, prepared: PreparedData, launch: Launcher) -> None:
    """Run a training command; one of them by DeepSpeed's own launcher, as it is typed."""
    at = words.index("launch/pretrain.py")
    planned = {"--print_config", "--dry_run"} & set(words)
    overrides = [] if "--corpus_tokens" in words else smaller(page, words, prepared)
    run_dir = workspace / "runs" / "new"
    if words[at + 1 :] == QUICKSTART[at + 1 :]:
        shutil.rmtree(run_dir, ignore_errors=True)
        finished = launch.command([*words, *overrides, f"run_dir={run_dir}"], run_dir).wait()
    else:
        if "--recipe" in words and "/" in words[words.index("--recipe") + 1]:
            overrides += [] if planned else [f"run_dir={run_dir}-{page.replace('/', '-')}"]
        ranks = int(words[words.index("--num_accelerators") + 1]) if "--num_accelerators" in words else words[0] == "deepspeed"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        program = Program([*words[at:], *overrides], workspace, environment, environments(ranks))
        output, error = program.communicate(240)
        finished = Finished(program.returncode, output, error, run_dir)
    assert finished.status == 0, finished.error
    assert ("after training" in finished.output) == (not planned)


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=lambda value: value if isinstance(value, str) else " ".join(value)[:60]
)
def test_a_command_runs(page, words, workspace, prepared, launch):
    for key, block in FILES.items():
        if key.startswith(f"{page}:"):
            (workspace / block.name).write_text(block.text, encoding="utf-8")
    if "launch/pretrain.py" in words:
        trained(page, words, workspace, prepared, launch)
        return
    if "--out" in words:
        shutil.rmtree(workspace / words[words.index("--out") + 1], ignore_errors=True)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(typed(words), cwd=workspace, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    if "--out" in words:
        assert (workspace / words[words.index("--out") + 1]).exists()


@pytest.mark.parametrize("block", [block for block in blocks("python") if "grow(" in block.text and block.page == "README.md"])
def test_the_api_of_the_readme_grows(block, workspace):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", block.text], cwd=workspace, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    printed = re.search(r"print\(.*\)  # (\w+)", block.text)[1]
    assert done.stdout.splitlines()[-1] == printed


@pytest.mark.skipif(
    Path(sys.prefix) != ROOT / ".venv", reason="not run by .venv's Python: make would install another environment"
)
def test_make_pretrain_runs(prepared, tmp_path):
    overrides = " ".join([*smaller("README.md", QUICKSTART, prepared), f"run_dir={tmp_path / 'run'}"])
    finished = subprocess.run(["make", "pretrain", f"ARGS={overrides}"], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert finished.returncode == 0, finished.stderr
    assert "after training" in finished.stdout
