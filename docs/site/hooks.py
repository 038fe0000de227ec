"""Pages that mkdocs makes of the code while it builds the site: keys, command lines, operators."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipeline.operators import DEPTH, UPCYCLING, WIDTH
from pipeline.operators.__main__ import table
from pipeline.recipe.reference import anchor, reference

COMMANDS = (*(f"launch/{name}.py" for name in ("pretrain", "grow", "evaluate", "report", "plan", "reproduce")), "-m data_prep")


def keys() -> dict[str, str]:
    """Return the pages of a recipe's keys and of those of data preparation, whose sections link to each other."""
    recipe, heading, data = reference().partition("# Keys of a data preparation\n")
    pages = {"recipe.md": recipe, "data-keys.md": heading + data}
    places = {anchor(title): page for page, text in pages.items() for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}

    def linked(match: re.Match[str]) -> str:
        return f"({places[match[1]]}#{match[1]})"

    return {page: re.sub(r"\(#([\w-]+)\)", linked, text) for page, text in pages.items()}


def operators() -> str:
    """Return the page of the operators' tables."""
    named = {option.name: option for each in (*WIDTH.values(), *DEPTH.values()) for option in each.options}
    options = ["| option | default | |", "|---|---|---|"]
    for option in (*named.values(), *UPCYCLING):
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
        "Each command prints this with `--help`. Where the package is installed, `growth-pretrain`, `growth-grow`, "
        "`growth-evaluate`, `growth-report`, `growth-plan`, `growth-reproduce` and `growth-prepare` are the same commands, in "
        "any directory. `launch/pretrain.py` and `launch/evaluate.py` are started by `deepspeed` or "
        "`torchrun` to run on several ranks. [Exit statuses](../how-to/resume.md#exit-status)."
    )
    return "\n\n".join(("# Command lines", about, *sections))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to the site."""
    pages = keys() | {"operators.md": operators(), "command-lines.md": command_lines()}
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}", content=text))
    return files
