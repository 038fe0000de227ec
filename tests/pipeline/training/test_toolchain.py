"""What compiling lacks, and whether Triton's kernels run on a device."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from deepspeed.ops.op_builder import AsyncIOBuilder

from pipeline.common.errors import UserError
from pipeline.training import toolchain
from pipeline.training.losses import summed_loss
from pipeline.training.toolchain import check_toolchain, missing_tool, reach_ninja, triton_runs


@pytest.fixture(autouse=True)
def asked_anew():
    triton_runs.cache_clear()
    yield
    triton_runs.cache_clear()


@pytest.mark.parametrize(
    ("available", "says"), [(False, "Triton has no driver for this device"), (True, "Failed to find C compiler")]
)
def test_where_kernels_cannot_be_compiled_the_loss_runs_in_chunks_and_says_so_once(monkeypatch, caplog, available, says):
    def compiling(*_, **__):
        raise RuntimeError("Failed to find C compiler.\nPlease specify one.")

    monkeypatch.setattr(toolchain, "triton_backend_available", lambda: available)
    monkeypatch.setattr(toolchain, "chunked_cross_entropy", compiling)
    logits, labels = torch.empty(4, 50, device="meta", requires_grad=True), torch.empty(4, dtype=torch.long, device="meta")
    for _ in range(2):
        summed_loss(logits, labels).backward()
    assert logits.grad.shape == logits.shape
    (record,) = caplog.records
    assert says in record.getMessage() and "specify" not in record.getMessage()


def test_a_cpu_is_not_asked_and_nothing_is_said_of_it(caplog):
    assert not triton_runs(torch.device("cpu")) and not caplog.records


@pytest.mark.parametrize(
    ("device", "environment", "lacks", "words"),
    [
        ("cpu", {"PATH": "/nowhere"}, None, r"a C\+\+ compiler, and there is no g\+\+; .*is g\+\+"),
        ("cpu", {"CXX": "nvc++"}, None, r"a C\+\+ compiler, and there is no nvc\+\+"),
        ("cuda", {"PATH": "/nowhere"}, None, "a C compiler, and there is no gcc; .*is gcc"),
        ("cuda", {"CC": "nvc"}, None, "a C compiler, and there is no nvc"),
        ("cuda", {"CC": sys.executable}, "headers", "Python's headers, .*python3-dev"),
        ("cuda", {"CC": sys.executable}, "triton", "Triton, and this torch came without it"),
        ("cuda", {"CC": sys.executable}, None, None),
        ("cpu", {"CXX": sys.executable}, "triton", None),
        ("npu", {"PATH": "/nowhere"}, "triton", None),
    ],
)
def test_what_compiling_lacks_is_that_of_the_device(device, environment, lacks, words, monkeypatch, tmp_path):
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(toolchain, "find_spec", lambda name: None if lacks == "triton" else name)
    monkeypatch.setattr("sysconfig.get_path", lambda *_, **__: str(tmp_path))
    if lacks != "headers":
        (tmp_path / "Python.h").touch()
    if words is None:
        assert missing_tool(device) is None
        check_toolchain("x", "y", device=device)
    else:
        with pytest.raises(UserError, match=f"^compile needs {words}.*, or leave it out$"):
            check_toolchain("compile", "leave it out", device=device)


def test_the_packages_ninja_is_found_wherever_its_scripts_lie(tmp_path, monkeypatch):
    (tmp_path / "ninja").touch(mode=0o755)
    monkeypatch.setattr("ninja.BIN_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    assert reach_ninja() and shutil.which("ninja") == str(tmp_path / "ninja")


def test_a_ninja_without_a_program_is_none(monkeypatch):
    monkeypatch.setattr("ninja.BIN_DIR", "")
    monkeypatch.setenv("PATH", "/nowhere")
    assert not reach_ninja()


@pytest.mark.skipif(not Path("/usr/include/libaio.h").is_file(), reason="no libaio here: Debian's package libaio-dev has it")
def test_libaio_is_found_where_it_is_installed():
    assert AsyncIOBuilder().is_compatible(verbose=False)
