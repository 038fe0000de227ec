"""Every command of the README and of the documents runs, made small; blocks whose title says what they need are left out."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from data_prep.manifest import PreparedData
from tests.documentation import blocks
from tests.end_to_end.conftest import ROOT, Finished, Launcher
from tests.forked import Program
from tests.ranks import environments
from tests.typed import typed

RUN = [(block.page, words) for block in blocks("bash") if not block.title for words in block.commands]
FIRST = {shlex.join(words): page for page, words in reversed(RUN)}
PAGES = {page: [words for at, words in RUN if at == page == FIRST[shlex.join(words)]] for page in dict.fromkeys(FIRST.values())}
"""The commands of each page that are on no earlier one."""
QUICKSTART = RUN[0][1]
FILES = {(block.page, block.name): block.text for language in ("yaml", "python") for block in blocks(language) if block.name}


def file_of(page: str, name: str) -> str:
    """Return the content of a file that a page tells its reader to save, or of a recipe of the project."""
    return FILES.get((page, name)) or (ROOT / name).read_text(encoding="utf-8")


def smaller(page: str, words: list[str], prepared: PreparedData) -> list[str]:
    """Return overrides that leave a training command's path through the code and shrink what it works on."""
    name = words[words.index("--recipe") + 1] if "--recipe" in words else "launch/recipes/quickstart.yaml"
    content = yaml.safe_load(file_of(page, name))
    overrides = ["data.text=null", "data.tokenizer=null", f"data.shards={prepared.directory}", "train_batch_size=4"]
    overrides += [
        "evaluation.windows=4",
        f"data.sequence_length={32 if name == 'my.yaml' else 64}",
        *(f"stages.{stage['name']}.steps=2" for stage in content["stages"]),
    ]
    if name == "my.yaml":
        overrides += ["target.hidden_size=64", "target.num_hidden_layers=6"]
    if "steps" in content["source"]:
        overrides += ["source.steps=2"]
    return overrides


@pytest.fixture
def workspace(tmp_path, undisturbed: Finished, corpus: Path) -> Path:
    """A folder as a reader has it after the quickstart, whose run is that of the toy recipe; its source is `models/small`."""
    folder = tmp_path / "reader"
    folder.mkdir()
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


def train(page: str, words: list[str], workspace: Path, prepared: PreparedData, launch: Launcher) -> None:
    """Run a training command; the quickstart by DeepSpeed's own launcher, as it is typed."""
    at = words.index("launch/pretrain.py")
    planned = {"--print_config", "--dry_run"} & set(words)
    overrides = [] if "--corpus_tokens" in words else smaller(page, words, prepared)
    if not planned and (page, words[-1]) not in FILES:
        overrides.append(f"run_dir={workspace / 'runs' / 'new'}")
    if words == QUICKSTART:
        finished = launch.command([*words, *overrides], workspace / "runs" / "new").wait()
    else:
        ranks = int(words[0] == "deepspeed")
        if "--num_accelerators" in words:
            ranks = int(words[words.index("--num_accelerators") + 1])
        environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        program = Program([*words[at:], *overrides], workspace, environment, environments(ranks))
        output, error = program.communicate(240)
        finished = Finished(program.returncode, output, error, workspace)
    assert finished.status == 0, finished.error
    assert ("after training" in finished.output) == (not planned)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(page, workspace, prepared, launch):
    for (at, name), text in FILES.items():
        if at == page:
            (workspace / name).write_text(text, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    for words in PAGES[page]:
        if "launch/pretrain.py" in words:
            train(page, words, workspace, prepared, launch)
            continue
        done = subprocess.run(typed(words), cwd=workspace, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0 and done.stdout, done.stderr
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
