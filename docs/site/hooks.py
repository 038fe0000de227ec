"""Pages that mkdocs makes of the code while it builds the site: keys, command lines, operators."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from keys import keys

from data_prep.settings import DataPrepConfig
from pipeline.operators import DEPTH, UPCYCLING, WIDTH
from pipeline.operators.__main__ import table
from pipeline.recipe import Recipe
from pipeline.recipe.progressive import ProgressiveConfig

COMMANDS = (
    *(
        "launch/pretrain.py",
        "launch/grow.py",
        "launch/evaluate.py",
        "launch/report.py",
        "launch/plan.py",
        "launch/reproduce.py",
    ),
    "-m data_prep",
)


def recipe() -> str:
    """Return the page of a recipe's keys."""
    return "\n\n".join(
        (
            "# Keys of a recipe",
            "A recipe is a YAML file for `launch/pretrain.py`. `Recipe` is its top level; a key whose value is a link takes a "
            "section with the keys described there. A key on the command line (`optimizer.lr=3e-4`) overrides the file's. An "
            "unknown key is refused. `--print_config` prints a recipe with every default.",
            keys(Recipe, ProgressiveConfig),
        )
    )


def data_keys() -> str:
    """Return the page of a data preparation's keys."""
    return "\n\n".join(
        (
            "# Keys of data preparation",
            "A configuration of `python -m data_prep` is a YAML file. `DataPrep` is its top level. "
            "[Inputs, steps and filters](data-preparation.md) says what they do, and has the options of each step.",
            keys(DataPrepConfig),
        )
    )


def operators() -> str:
    """Return the page of the operators' tables."""
    options = ["| option | default | |", "|---|---|---|"]
    for option in {option.name: option for each in (*WIDTH.values(), *DEPTH.values()) for option in each.options}.values():
        options.append(f"| `{option.name}` | `{option.default}` | {option.description} |")
    for option in UPCYCLING:
        options.append(f"| `{option.name}` | `{option.default}` | {option.description} |")
    return "\n\n".join(
        (
            "# Operators",
            "What each one looks like: [the operators in figures](../explanation/operators.md). Which one is exact where: "
            "[why a growth can be exact](../explanation/growth.md). Where the tables name none, `auto` is the default.",
            "## Width",
            table("width", WIDTH),
            "## Depth",
            table("depth", DEPTH),
            "## Options",
            "\n".join(options),
        )
    )


def _help(command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    words = [sys.executable, *command.split(), "--help"]
    shown = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", check=True).stdout
    return shown.replace(f"{ROOT}/", "")


def command_lines() -> str:
    """Return the page of the command lines' own help."""
    with ThreadPoolExecutor(2) as pool:
        helps = list(pool.map(_help, COMMANDS))
    sections = [f"## python {command}\n\n```text\n{text.rstrip()}\n```" for command, text in zip(COMMANDS, helps, strict=True)]
    about = (
        "Each command prints this with `--help`. `launch/pretrain.py` and `launch/evaluate.py` are started by `deepspeed` or "
        "`torchrun` to run on several ranks. [Exit statuses](../how-to/resume.md#exit-status)."
    )
    return "\n\n".join(("# Command lines", about, *sections))


PAGES: dict[str, Callable[[], str]] = {
    "reference/recipe.md": recipe,
    "reference/data-keys.md": data_keys,
    "reference/operators.md": operators,
    "reference/command-lines.md": command_lines,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to the site."""
    for path, page in PAGES.items():
        files.append(File.generated(config, path, content=page()))
    return files
