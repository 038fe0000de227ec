import re

import pytest

from pipeline.recipe.reference import anchor, reference, schemas

SECTIONS = schemas()[0]


@pytest.mark.parametrize("name", SECTIONS)
def test_every_section_and_every_key_is_described(name):
    keys = SECTIONS[name].get("properties", {})
    assert [key for key, schema in {name: SECTIONS[name], **keys}.items() if not schema.get("description")] == []


def test_every_section_has_a_heading_that_links_find():
    text = reference()
    headings = [heading.lstrip("# ") for heading in re.findall(r"^#.*$", text, re.MULTILINE)]
    assert len(headings) == len(set(headings)) == len(SECTIONS) - ("Step" in SECTIONS)
    assert set(re.findall(r"\[section\]\(#(.*?)\)", text)) <= set(map(anchor, headings))
    assert "| `lr` | number above 0 | `0.001` | Peak learning rate. |" in text
