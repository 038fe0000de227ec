"""DeepSpeed's insides are reached in one package, which refuses releases that it was not written for."""

import ast
import re
from pathlib import Path

import deepspeed
import pytest

from pipeline.common.errors import UserError
from pipeline.deepspeed import norms
from pipeline.deepspeed.engine import partitioned_construction
from pipeline.deepspeed.release import check_release

ROOT = Path(__file__).parents[3]
ADAPTER = ROOT / "pipeline" / "deepspeed"
DOCUMENTED = {("deepspeed", "DeepSpeedEngine"), ("deepspeed.accelerator", "get_accelerator")}
INSIDES = re.compile(
    r"ds_(id|tensor|numel|status|persist)|_hp_mapping|grad_position|(fp|bf|bit)(16|32)_.*groups.*|loss_scaler|overflow|averaged_gradients"
    r"|single_partition_of_fp32_groups|_global_grad_norm|checkpoint_engine|micro_steps|parameter_offload|optimizer_swapper"
)
"""Attributes of DeepSpeed's engines, optimizers and parameters."""


@pytest.mark.parametrize("package", ["data_prep", "launch", "pipeline"])
def test_nothing_else_reaches_into_deepspeed(package):
    found = []
    for path in (ROOT / package).rglob("*.py"):
        if path.is_relative_to(ADAPTER):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom):
                names = [(node.module or "", each.name) for each in node.names]
            elif isinstance(node, ast.Import):
                names = [(each.name, "") for each in node.names]
            elif isinstance(node, ast.Attribute) and INSIDES.fullmatch(node.attr):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: .{node.attr}")
            found += [
                f"{path.relative_to(ROOT)}:{node.lineno}: {module}.{name}"
                for module, name in names
                if module.partition(".")[0] == "deepspeed" and (module, name) not in DOCUMENTED
            ]
    assert not found, "reach these by pipeline/deepspeed"


def test_every_module_of_the_adapter_is_in_its_table():
    table = (ADAPTER / "__init__.py").read_text(encoding="utf-8")
    modules = {path.stem for path in ADAPTER.glob("*.py")} - {"__init__", "release"}
    assert modules == set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    tests = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    assert set(re.findall(r"\b(test_\w+)(?!\w|\.py)", table)) <= tests


@pytest.mark.parametrize(("holder", "name"), norms.NAMES, ids=lambda part: getattr(part, "__name__", part))
def test_a_deepspeed_without_a_name_that_is_replaced_is_refused_by_it(monkeypatch, holder, name):
    monkeypatch.delattr(holder, name)
    with (
        pytest.raises(UserError, match=rf"has no {holder.__name__}\.{name}, .*; install deepspeed 0\.19\.8$"),
        partitioned_construction({}, partitioned=False),
    ):
        pass


def test_other_releases_are_refused():
    check_release(deepspeed.__version__, [])
    check_release("0.19.10+local", [])
    for release in ("0.19.7", "0.18.9", "0.20.0", "1.19.8"):
        with pytest.raises(UserError, match=rf"^deepspeed {re.escape(release)}: .*; install deepspeed 0\.19\.8$"):
            check_release(release, [])
