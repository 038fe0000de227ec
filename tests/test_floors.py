"""The lowest releases that are allowed are named for each package, and the pinned ones are no lower."""

import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.end_to_end.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = {
    canonicalize_name(line.partition("==")[0]): line.strip().partition("==")[2]
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
}


@pytest.mark.parametrize("line", PROJECT["dependencies"])
def test_a_package_has_a_floor_that_its_pin_satisfies(line):
    package = Requirement(line)
    assert [each.operator for each in package.specifier] == [">="]
    assert package.specifier.contains(PINS[canonicalize_name(package.name)])
