"""Links, examples and commands of the documents, as far as they are checked without running them."""

import ast
import os
import re
import subprocess
import sys
from functools import cache

import pytest
import yaml

from data_prep.settings import DataPrepConfig
from pipeline.recipe import read_recipe
from tests.documentation import NEEDS, PAGES, ROOT, blocks

GENERATED = {"recipe.md", "data-keys.md", "operators.md", "command-lines.md"}
"""Pages of docs/reference that are made while the site is built, where `mkdocs build --strict` checks links to them."""
EXAMPLES = [block for block in blocks("yaml") if block.name]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MkDocs make them."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        if linked.parent.name == "reference" and linked.name in GENERATED:
            continue
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked.read_text(encoding="utf-8")), target


def test_no_page_has_commands_outside_of_fenced_blocks():
    for page in PAGES:
        prose = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        assert not re.findall(r"^    (?:python|deepspeed|sbatch|mpiexec|make) .*$", prose, flags=re.MULTILINE), page


def test_commands_that_are_not_run_say_what_they_need():
    """A block of commands has no title, and is run (tests/end_to_end/test_documentation.py), or one of those titles."""
    for block in blocks("bash"):
        assert block.title in {"", *NEEDS} and not block.other, (block.page, block.title, block.other)
    assert not blocks("sh") and not blocks("shell") and not blocks("console")


@cache
def _help(script: str) -> str:
    words = [sys.executable, f"launch/{script}.py", "--help"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout


def test_commands_that_are_not_run_have_options_that_there_are():
    looked_at = 0
    for block in blocks("bash"):
        for words in block.commands if block.title else ():
            for place, word in enumerate(words):
                found = re.fullmatch(r"launch/(?:slurm/)?(pretrain|grow|evaluate|report|plan|reproduce)\.(?:py|sbatch)", word)
                for option in (each for each in words[place:] if each.startswith("--")) if found else ():
                    assert re.search(rf"(?<![\w-]){option}(?![\w-])", _help(found[1])), (block.page, option)
                    looked_at += 1
    assert looked_at > 10


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: f"{block.page}:{block.name}")
def test_examples_are_recipes_and_configurations(block):
    content = yaml.safe_load(block.text)
    if "corpora" in content:
        DataPrepConfig.model_validate(content)
        return
    recipe = read_recipe(content, block.name)
    if "progressive" in content:
        stages = ["size-1", "grow-1", "size-2", "grow-2", "size-3", "grow-3", "target"]
        assert [stage.name for stage in recipe.stages] == stages


def test_modules_that_are_named_exist():
    for page in PAGES:
        for path in re.findall(r"`((?:pipeline|data_prep|launch|tests|docs)/[\w./-]+)`", page.read_text(encoding="utf-8")):
            assert page.name == "CHANGELOG.md" or (ROOT / path).exists(), (page, path)


def test_every_block_of_yaml_and_python_is_read():
    for block in blocks("yaml"):
        yaml.safe_load(block.text)
    for block in blocks("python"):
        ast.parse(block.text)


def test_the_tutorial_shows_the_example_as_it_is():
    example = (ROOT / "docs" / "examples" / "grow_in_ten_lines.py").read_text(encoding="utf-8")
    assert any(block.text == example for block in blocks("python") if block.page == "docs/tutorial.md")
    assert len([line for line in ast.unparse(ast.parse(example)).splitlines() if not line.startswith('"""')]) < 20


def test_the_readme_is_read_in_three_minutes():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def test_figures_are_drawn_by_the_code_as_it_is(tmp_path):
    words = [sys.executable, "docs/site/figures.py", str(tmp_path)]
    drawn = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert drawn.returncode == 0, drawn.stderr
    committed = ROOT / "docs" / "images"
    assert {figure.name for figure in tmp_path.iterdir()} == {figure.name for figure in committed.iterdir()}
    for name in ("width-fpi.svg", "width-exact_aki.svg"):
        assert (tmp_path / name).read_bytes() == (committed / name).read_bytes(), "draw them: python docs/site/figures.py"


def test_the_site_is_built_without_a_warning_and_loads_nothing(tmp_path):
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert built.returncode == 0, built.stdout + built.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        assert not re.findall(r"<(?:script|img)[^>]* src=\"?https?:", page.read_text(encoding="utf-8")), page
        assert not re.findall(r"<link[^>]* rel=\"?stylesheet[^>]*https?:", page.read_text(encoding="utf-8")), page
