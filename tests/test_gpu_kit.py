"""What shows a GPU's user whether all is well and how fast: its arithmetic and its faults, seen without a GPU."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.benchmarks import gpu, gpu_ways, on_a_gpu
from tests.benchmarks.gpu import (
    QUICK,
    WAYS,
    Batch,
    Model,
    Results,
    Speed,
    configuration,
    device_spans,
    idle_share,
    plan,
    speeds,
)
from tests.end_to_end.conftest import ROOT

CPU = torch.device("cpu")
MODELS = QUICK.models


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spans", "idle"),
    [
        ([], 1.0),
        ([(5, 5)], 1.0),
        ([(0, 10)], 0.0),
        ([(0, 4), (6, 10)], 0.2),
        ([(6, 10), (0, 4)], 0.2),
        # Streams that overlap, one within another, and one that only touches.
        ([(0, 6), (2, 4), (5, 8), (8, 9), (10, 12)], 1 / 12),
    ],
)
def test_a_device_is_idle_where_none_of_its_streams_works(spans, idle):
    assert idle_share(spans) == pytest.approx(idle)


def test_what_a_device_did_is_kernels_copies_and_fills():
    kinds = ("kernel", "gpu_memcpy", "gpu_memset", "cpu_op", "cuda_runtime", "gpu_user_annotation")
    events = [{"ph": "X", "cat": kind, "ts": 10 * number, "dur": 1} for number, kind in enumerate(kinds)]
    events += [{"ph": "M", "name": "process_name"}, {"ph": "i", "cat": "kernel", "ts": 0}]
    assert device_spans({"traceEvents": events}) == [(0, 1), (10, 11), (20, 21)]


def test_the_most_wanted_rows_come_first_and_none_is_lost():
    rows = plan(MODELS, [*WAYS])
    assert len(rows) == len(set(rows)) == len(MODELS) * len(WAYS)
    assert [way for _, way in rows[:4]] == ["zero1-compiled", "fair"] * 2
    assert plan(MODELS[1:], ["bare", "zero3"]) == [(MODELS[1], "zero3"), (MODELS[1], "bare")]


def failing(fails, file, seen):
    """In place of a measurement: ways that raise, and what stood in the file by then."""

    def measure(model, way, sequences, size, device):
        seen.append(file.read_text())
        if way.name in fails:
            raise fails[way.name]
        return Speed(1000.0, 0.1, 0.5, None, 0)

    return measure


FAULTS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
    RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later"),
    torch._dynamo.exc.BackendCompilerFailed(print, ImportError("no Triton"), None),
    ImportError("no module | no luck"),
    subprocess.CalledProcessError(1, ["gcc"]),
    AssertionError(),
]


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_a_row_that_fails_says_why_and_the_others_are_measured(fault, tmp_path, monkeypatch, capsys):
    file, seen = tmp_path / "gpu.md", []
    monkeypatch.setattr(gpu, "speed", failing({WAYS["fair"].name: fault}, file, seen))
    results, rows = Results(file, []), plan(MODELS[:1], ["zero1-compiled", "fair", "zero3"])
    speeds(rows, QUICK, CPU, float("inf"), results)
    lines = file.read_text().strip().splitlines()[-3:]
    assert "| 1,000 | 50.0% | 1.00 | 100 |" in lines[0] and "| 1,000 | 50.0% | 1.00 | 100 |" in lines[2]
    assert f"failed: {type(fault).__name__}" in lines[1]
    assert {line.count("|") for line in lines} == {len(gpu.COLUMNS) + 1}, "a table still"
    assert [each is None for each in results.speeds] == [False, True, False]
    # Each row is in the file before the next begins.
    assert [text.count("gpt2 {2, 64}, 4 x 32") for text in seen] == [0, 1, 2]


@pytest.mark.slow
def test_a_device_that_answers_no_more_is_left_to_a_new_process(tmp_path, monkeypatch):
    file, started = tmp_path / "gpu.md", []

    def begin_anew(program, words):
        started.append(words)
        raise SystemExit

    monkeypatch.setattr("os.execv", begin_anew)
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu"])
    monkeypatch.setattr(gpu, "answers", lambda device: False)
    monkeypatch.setattr(gpu, "speed", failing({WAYS["fair"].name: RuntimeError("an illegal memory access")}, file, []))
    rows = plan(MODELS[:1], ["zero1-compiled", "fair", "zero3"])
    with pytest.raises(SystemExit):
        speeds(rows, QUICK, CPU, float("inf"), Results(file, []))
    further = gpu.command_line().parse_args(started[0][3:])
    assert started[0][:3] == [sys.executable, "-m", "tests.benchmarks.gpu"] and further.device == "cpu"
    results = Results(file, [each and Speed(**each) for each in further.results])
    assert [each is None for each in results.speeds] == [False, True]
    speeds(rows, QUICK, CPU, float("inf"), results)
    assert [each is None for each in results.speeds] == [False, True, False]
    assert file.read_text().count("## Steps on a device") == 1 and file.read_text().count("| gpt2 {2, 64}") == 3


def test_rows_for_which_no_time_is_left_are_named(tmp_path, monkeypatch):
    file = tmp_path / "gpu.md"
    monkeypatch.setattr(gpu, "speed", failing({}, file, []))
    speeds(plan(MODELS, ["zero1", "bare"]), QUICK, CPU, float("-inf"), Results(file, []))
    assert file.read_text().count("left out for lack of time") == 4


@pytest.mark.parametrize(
    ("ours", "fair", "growth", "held"),
    [
        ((1000.0, 0.46, 0.04), 1020.0, 100 << 20, ["yes"] * 5),
        ((1000.0, 0.39, 0.06), 1100.0, 300 << 20, ["no"] * 5),
        ((1000.0, 0.46, None), None, None, ["yes", "", "yes", "", ""]),
    ],
)
def test_what_is_to_be_reached_is_told_beside_what_was(ours, fair, growth, held, tmp_path):
    speed, mfu, idle = ours
    rows = [(model, way) for model in gpu.FULL.models[:2] for way in ("zero1-compiled", "fair")]
    mine = Speed(speed, 0.1, mfu, idle, 0)
    theirs = None if fair is None else Speed(fair, 0.1, 0.4, None, 0)
    results = Results(tmp_path / "gpu.md", [mine, theirs, mine, theirs], growth)
    gpu.verdicts(rows, results)
    lines = results.out.read_text().strip().splitlines()[-5:]
    assert [line.split("|")[-2].strip() for line in lines] == held
    assert all(("not measured" in line) == (verdict == "") for line, verdict in zip(lines, held, strict=True))


def test_the_fair_loop_learns_as_the_plain_one(monkeypatch):
    """bf16 weights and fp32 masters against fp32 weights under autocast: updates alike but for rounding."""
    model = Model("gpt2", 2, 64, 32, 4, 500)
    batch = Batch(model, configuration(model)[0], 4, CPU)
    made, make = [], gpu_ways.plain_model
    monkeypatch.setattr(gpu_ways, "plain_model", lambda *words: made.append(make(*words)) or made[-1])
    # Large beside bfloat16's rounding of the weights.
    monkeypatch.setattr(gpu_ways, "LEARNING_RATE", 0.01)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    moved = {}
    for key in ("bare", "fair"):
        torch.manual_seed(0)
        step, _ = WAYS[key].step(model, batch, WAYS[key])
        plain = made[-1][0]
        before = [weight.detach().float().clone() for weight in plain.parameters()]
        for _ in range(3):
            step()
        pairs = zip(plain.parameters(), before, strict=True)
        moved[key] = torch.cat([(weight.detach().float() - old).flatten() for weight, old in pairs])
    assert made[1][0].dtype == torch.bfloat16
    # Adam's first updates are all but signs, and a few gradients are near nothing.
    assert torch.nn.functional.cosine_similarity(*moved.values(), dim=0) > 0.98
    assert moved["fair"].norm().item() == pytest.approx(moved["bare"].norm().item(), rel=0.02)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_every_layer_of_the_fair_loop_stays_compiled(family, monkeypatch):
    """More layers than torch compiles forms of one function by default."""
    config = torch._dynamo.config
    layers = config.recompile_limit + 2
    model = Model(family, layers, 64, 32, 4, 500)
    batch = Batch(model, configuration(model)[0], 4, CPU)
    compiled, ran = torch.compile, []

    def backend(graph, _):
        def run(*inputs):
            ran.append(graph)
            return graph(*inputs)

        return run

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", lambda function: compiled(function, backend=backend))
    with config.patch(recompile_limit=config.recompile_limit, fail_on_recompile_limit_hit=True):
        step, _ = WAYS["fair"].step(model, batch, WAYS["fair"])
        step()
        step()
    assert len(ran) == 2 * (layers + 1), "each layer and the loss, in one graph each"
    torch._dynamo.reset()


# --- make gpu -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "cuda", "words"),
    [("2.13.0+cpu", None, "is built for CPUs"), ("2.13.0", "13.0", "for CUDA 13.0 sees none; nvidia-smi")],
)
def test_without_a_gpu_a_sentence_says_so(version, cuda, words, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", cuda)
    monkeypatch.setattr("torch.version.hip", None)
    monkeypatch.setattr("torch.__version__", version)
    assert words in on_a_gpu.no_gpu() and version in on_a_gpu.no_gpu()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert on_a_gpu.no_gpu() is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_nothing_is_written_and_the_status_says_so(tmp_path):
    words = [sys.executable, "-m", "tests.benchmarks.on_a_gpu", "--out", str(tmp_path / "gpu.md")]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1 and "there is no GPU" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_what_is_not_well_is_named_and_what_is_not_needed_only_left_out():
    found = on_a_gpu.Look()

    def missing():
        raise on_a_gpu.NotWellError("no ninja | none")

    def broken():
        raise RuntimeError("NCCL error")

    found.at("good", lambda: "8 GiB")
    found.at("offloading", missing, needed=False)
    assert found.well
    found.at("collectives", broken)
    assert not found.well
    assert found.rows == [
        ["good", "8 GiB", "well"],
        ["offloading", "no ninja / none", "left out"],
        ["collectives", "NCCL error", "NOT WELL"],
    ]


def test_a_device_that_computes_wrongly_is_not_well(monkeypatch):
    assert on_a_gpu.product(CPU).startswith("right")
    product = torch.Tensor.__matmul__

    def wrong(a, b):
        return product(a, b) * (1.1 if a.dtype == torch.bfloat16 else 1)

    monkeypatch.setattr(torch.Tensor, "__matmul__", wrong)
    with pytest.raises(on_a_gpu.NotWellError, match="computes wrongly"):
        on_a_gpu.product(CPU)


def test_small_shared_memory_is_not_well(monkeypatch):
    monkeypatch.setattr(on_a_gpu.shutil, "disk_usage", lambda _: SimpleNamespace(total=64 << 20))
    with pytest.raises(on_a_gpu.NotWellError, match=r"64 MiB: NCCL may fail; .*--shm-size"):
        on_a_gpu.shared_memory()


def test_ranks_add_their_numbers():
    assert on_a_gpu.together(rehearsed=True).startswith("2 ranks: right by gloo, ")


@pytest.mark.parametrize(
    ("program", "words"),
    [("raise SystemExit('no NVLink')", "a rank ended with status 1: no NVLink"), ("import time; time.sleep(60)", "within 1 s")],
)
def test_ranks_that_do_not_meet_are_not_well(program, words, monkeypatch):
    popen = subprocess.Popen
    monkeypatch.setattr(on_a_gpu, "MEETING_SECONDS", 1.0 if "sleep" in program else 60.0)
    monkeypatch.setattr(subprocess, "Popen", lambda _, **options: popen([sys.executable, "-c", program], **options))
    with pytest.raises(on_a_gpu.NotWellError, match=words):
        on_a_gpu.together(rehearsed=True)


def test_tests_are_counted_and_those_that_fail_are_named(tmp_path):
    file, out = tmp_path / "test_some.py", tmp_path / "gpu.md"
    file.write_text("import os\nimport pytest\ndef test_a(): pass\ndef test_b(): assert 0\ndef test_c(): pytest.skip('x')\n")
    assert not on_a_gpu.tested([str(file), "-p", "no:cacheprovider"], True, out, 60)
    assert "1 passed, 1 failure, 0 error, 1 skipped. Exit status 1." in out.read_text() and "\n- test_b\n" in out.read_text()
    file.write_text("import os\ndef test_a(): assert os.environ['REHEARSE_GPU']\n")
    assert on_a_gpu.tested([str(file), "-p", "no:cacheprovider"], True, out, 60)
    file.write_text("import time\ndef test_a(): time.sleep(60)\n")
    assert not on_a_gpu.tested([str(file), "-p", "no:cacheprovider"], True, out, 3)
    assert "No end within 3 s" in out.read_text()


@pytest.mark.full
@pytest.mark.timeout(900)
def test_all_of_it_is_rehearsed_on_a_cpu(tmp_path):
    test = "tests/end_to_end/test_gpu.py::test_growth_and_both_stages_run_on_a_gpu[fp32-1]"
    words = [sys.executable, "-m", "tests.benchmarks.on_a_gpu", "--rehearse", "--tests", test, "--seconds", "800"]
    ended = subprocess.run([*words, "--out", str(tmp_path / "gpu.md")], cwd=ROOT, capture_output=True, text=True, timeout=850)
    page = (tmp_path / "gpu.md").read_text()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    headings = [line[3:] for line in page.splitlines() if line.startswith("## ")]
    assert headings == [
        *("Machine", "What training needs", "Tests", "Steps on a device", "Growing into live partitions", "In short")
    ]
    assert "All tests passed. Speed was measured." in page and "failed:" not in page
    assert all(line in ended.stdout for line in page.splitlines())
