"""The project installed from a wheel, and its commands started where there is no checkout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from tests.end_to_end.conftest import ROOT

COMMANDS = ("evaluate", "grow", "plan", "prepare", "pretrain", "report", "reproduce")
OWN = ("pipeline", "data_prep", "launch", "ds_configs", "pyproject.toml", "setup.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with what a wheel of the project installs; built from a copy, since a build leaves files in its sources."""
    place = tmp_path_factory.mktemp("wheel")
    for name in OWN:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place / "sources" / name, symlinks=True)
        else:
            shutil.copy(ROOT / name, place / "sources")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    alone = ["--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", place / "sources", *alone, "--no-build-isolation", "--wheel-dir", place], check=True)
    (wheel,) = place.glob("*.whl")
    subprocess.run([*pip, "install", wheel, *alone, "--target", place / "installed"], check=True)
    return place / "installed"


@pytest.fixture
def called(installed, tmp_path):
    """Start a command of the wheel in an empty folder: `called("grow", *words)` returns what it printed."""

    def call(name: str, *words: object) -> str:
        environment = os.environ | {"PYTHONPATH": str(installed)}
        command = [sys.executable, "-P", installed / "bin" / f"growth-{name}", *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def test_help_names_each_command_as_it_is_typed(called):
    for name in COMMANDS:
        assert called(name, "--help").startswith(f"usage: growth-{name} ")


def test_a_model_is_grown_and_its_card_names_the_command(called, tmp_path):
    GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=2, n_head=2, n_positions=8, vocab_size=16)).save_pretrained(tmp_path / "small")
    called("grow", "--source", "small", "--target", "hidden_size=16,num_hidden_layers=3", "--format", "hf", "--out", "grown")
    assert json.loads((tmp_path / "grown" / "config.json").read_text())["n_embd"] == 16
    assert "growth-grow --source small" in (tmp_path / "grown" / "README.md").read_text()


def test_the_projects_own_recipes_and_configurations_go_by_their_names(called):
    printed = called(
        "pretrain", "--ds_config", "ds_configs/zero2.json", "--recipe", "launch/recipes/nai.yaml", "--print_config"
    )
    assert "run_dir: runs/nai" in printed and '"stage": 2' in printed
