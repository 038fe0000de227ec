"""What follows from an operator's file."""

import ast
import itertools
from pathlib import Path

import pytest

from pipeline.families import FAMILIES
from pipeline.operators import DEPTH, WIDTH
from pipeline.operators.__main__ import table
from pipeline.recipe import GrowthConfig

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"


def test_the_documentation_shows_every_operator():
    """Its tables are printed by the code, and are one row for each operator."""
    shown = (DOCS / "explanation" / "operators.md").read_text(encoding="utf-8")
    for name in WIDTH:
        assert f"### `{name}`" in shown and (DOCS / "images" / f"width-{name}.svg").is_file()
    for key, operators in (("width", WIDTH), ("depth", DEPTH)):
        assert [line.split("`")[1] for line in table(key, operators).splitlines() if line.startswith("| `")] == [
            key,
            *operators,
        ]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_documentation_has_every_family(family):
    assert f"`{family}`" in (DOCS / "reference" / "families.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("key", "operators"), [("width", WIDTH), ("depth", DEPTH)])
def test_the_recipe_takes_every_operator_by_name(key, operators):
    for name in operators:
        options = {"scaled": True} if name == "zero_pad" else {"layers": [0]} if name == "list" else {}
        assert getattr(GrowthConfig(**{key: name}, **options), key) == name


def test_no_family_is_named_outside_the_families_files():
    """What a family needs is in its graph; words that a person reads may name one."""
    found = []
    for path in (ROOT / "pipeline").rglob("*.py"):
        if path.parent.name == "families":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [
            (path.name, node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value in FAMILIES
        ]
    assert found == []


def test_midas_keeps_the_sources_layers_in_order_with_the_first_and_the_last_in_their_places():
    for source, target in itertools.product(range(1, 14), range(1, 40)):
        if target < source:
            continue
        origins = DEPTH["midas"].origins(source, target, {"repeat_scale": 0.5})
        assert len(origins) == target and (origins[0].source, origins[-1].source) == (0, source - 1)
        assert [origin.source for origin in origins if not origin.added] == [*range(source)]
        assert {origin.scale for origin in origins if origin.added} <= {0.5}
