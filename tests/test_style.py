"""What holds of every file of the project and no linter checks."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [path for folder in ("data_prep", "launch", "pipeline", "tests") for path in sorted((ROOT / folder).rglob("*.py"))]
MOST_LINES = 60
"""Of a function, its docstring left out: about what a screen shows."""


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many lines a function has without its docstring."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        lines -= function.body[0].end_lineno - function.body[0].lineno + 1
    return lines


@pytest.mark.parametrize("folder", ["data_prep", "launch", "pipeline", "tests"])
def test_a_function_fits_on_a_screen(folder):
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {lines} lines"
        for path in FILES
        if path.is_relative_to(ROOT / folder)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (lines := code_lines(node)) > MOST_LINES
    ]
    assert not long, "\n".join(long)
