"""`python -m data_prep`, alone and under mpiexec: the same bytes, whatever happens on the way."""

import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from data_prep.manifest import HELDOUT, TRAIN, PreparedData
from data_prep.shards import Shard
from tests.conftest import make_documents
from tests.end_to_end.conftest import ROOT
from tests.typed import typed

GUTENBERG = ROOT.parent / "shared" / "data" / "gutenberg"
ALONE = [sys.executable, "-m", "data_prep"]
LIMIT = 120
FOOTER = "\nAll rights of this page are reserved."

pytestmark = pytest.mark.timeout(900)


def ranks(count):
    return typed(["mpiexec", "-n", str(count), "python", "-m", "mpi4py", "-m", "data_prep"])


def jsonl(texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def write_corpus(folder: Path, documents: int) -> None:
    """Four kinds of files; every tenth document stands in two of them, every twentieth almost, every eighth ends alike."""
    folder.mkdir()
    texts = [" ".join(make_documents(3, seed=seed)) + FOOTER * (seed % 8 == 3) for seed in range(documents)]
    copies = texts[::10] + [f"{text} And so on." for text in texts[5::20]]
    quarter = documents // 4
    (folder / "a.jsonl").write_bytes(jsonl(texts[: 2 * quarter]))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(jsonl(texts[2 * quarter : 3 * quarter]), mtime=0))
    pq.write_table(pa.table({"text": texts[3 * quarter :]}), folder / "c.parquet", row_group_size=200)
    (folder / "d.txt").write_text("\n\n".join(copies))
    (folder / "exam.json").write_text(json.dumps([" ".join(text.upper().split()[5:25]) for text in texts[7:90:40]]))


def configuration(folder: Path, output: Path, **changes) -> dict:
    return {
        "output_dir": str(output),
        "corpora": [
            {
                "name": "most",
                "files": [str(folder / "[ab].*"), str(folder / "c.parquet")],
                "dedupe": "near",
                "dedupe_spans": {"unit": "line"},
                "weight": 2,
            },
            {"name": "copies", "files": [str(folder / "d.txt")], "dedupe": "near", "weight": 1, "heldout_fraction": 0},
        ],
        "dedupe": {"memory_mib": 1},
        "decontamination": {"sets": {"exam": [str(folder / "exam.json")]}},
        "tokenizer": {"vocab_size": 500},
        "part_mib": 1,
        **changes,
    }


def written(path: Path, content: dict) -> Path:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def tree(folder: Path) -> dict[str, str]:
    """The hash of each file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run(command, *arguments):
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=LIMIT)


def succeed(command, *arguments) -> str:
    """Run to a good end; return what was printed."""
    done = run(command, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(command, *arguments, says: str) -> None:
    """Run to a refusal that says this, without a traceback."""
    done = run(command, *arguments)
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.fixture(scope="module")
def corpus_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts") / "corpus"
    write_corpus(folder, 2400)
    return folder


@pytest.fixture(scope="module")
def undisturbed(corpus_folder, tmp_path_factory):
    """What one process makes of the corpus."""
    place = tmp_path_factory.mktemp("alone")
    succeed(ALONE, "run", written(place / "c.yaml", configuration(corpus_folder, place / "out")))
    return place / "out"


@pytest.fixture
def output(tmp_path):
    """Where `config` has data prepared."""
    return tmp_path / "out"


@pytest.fixture
def config(corpus_folder, tmp_path, output):
    """The configuration of the corpus."""
    return written(tmp_path / "c.yaml", configuration(corpus_folder, output))


def test_a_corpus_is_deduplicated_tokenized_and_told_of(undisturbed):
    data = PreparedData(undisturbed)
    most, copies = data.corpora
    assert most.documents_read == 2400 and copies.documents_read == 360
    # Copies come after what they copy, and so none of them stays: a change of two words in 300 leaves similarity .98.
    assert copies.dropped == {"exact copy": 240, "near copy": 120}
    assert sum(split.documents for split in copies.splits.values()) == 0
    assert sum(split.documents for split in most.splits.values()) == 2400 - sum(most.dropped.values())
    lines = [json.loads(line) for line in (undisturbed / "dropped.jsonl").read_text().splitlines()]
    assert {line["kind"] for line in lines} == {"exact", "near", "repeated", "contaminated", "dropped"}
    assert most.removed == {"lines": 299, "characters": 299 * len(FOOTER)} and most.changed["dedupe_spans"] == 299
    assert most.contaminated == {"exam": 3} and most.dropped["contaminated"] == 3
    assert not (undisturbed / "work").exists() and not list(undisturbed.rglob("*.partial"))
    assert not (undisturbed / ".lock").exists()


def test_the_parts_manifests_add_up(undisturbed):
    data = PreparedData(undisturbed)
    for corpus in data.corpora:
        parts = [json.loads(path.read_text()) for path in sorted(undisturbed.glob(f"shards/{corpus.name}/part-*.json"))]
        assert len(parts) > 1 or corpus.name == "copies"
        for split in (TRAIN, HELDOUT):
            tokens = sum(part["splits"].get(split, {"tokens": 0})["tokens"] for part in parts)
            assert tokens == corpus.splits[split].tokens == sum(len(Shard(path).tokens) for path in data.shards(corpus, split))
        for part in parts:
            kept = sum(split["documents"] for split in part["splits"].values())
            assert part["documents_in"] == kept + sum(part["dropped"].values())
            for name, digest in part["files"].items():
                assert hashlib.blake2b((undisturbed / name).read_bytes(), digest_size=16).hexdigest() == digest


def test_a_finished_folder_is_left_alone(undisturbed, corpus_folder, tmp_path):
    before = tree(undisturbed)
    same = written(tmp_path / "c.yaml", configuration(corpus_folder, undisturbed))
    assert "prepared already" in succeed(ALONE, "run", same) and tree(undisturbed) == before
    other = written(tmp_path / "d.yaml", configuration(corpus_folder, undisturbed, part_mib=2))
    refused(ALONE, "run", other, says="started with another `part_mib`")
    assert tree(undisturbed) == before


@pytest.mark.parametrize("count", [2, 3])
def test_many_processes_leave_the_same_bytes(undisturbed, config, output, count):
    printed = succeed(ranks(count), "run", config)
    assert tree(output) == tree(undisturbed)
    assert len([line for line in printed.splitlines() if " clean " in line]) == 1


def killed_run(config: Path, instant: float) -> None:
    """Start two processes and kill both, and mpiexec, after `instant` seconds."""
    process = subprocess.Popen([*ranks(2), "run", str(config)], stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        time.sleep(instant)
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    finally:
        # Stopped first: mpiexec would end its processes in its own way.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(children, timeout=10)
    process.wait()


def finish_after_kills(undisturbed, config: Path, output: Path, seconds: float, kills: int, seed: int) -> None:
    """Kill unfinished runs `kills` times, each going on from the one before, and finish."""
    draw = random.Random(seed)
    done = 0
    while done < kills:
        killed_run(config, draw.uniform(0.3, seconds))
        if (output / "manifest.json").exists():
            shutil.rmtree(output)
        else:
            done += 1
    succeed(ranks(2), "run", config)
    assert tree(output) == tree(undisturbed)


@pytest.fixture(scope="module")
def seconds(corpus_folder, tmp_path_factory):
    """What two processes take."""
    place = tmp_path_factory.mktemp("timed")
    config = written(place / "c.yaml", configuration(corpus_folder, place / "out"))
    began = time.perf_counter()
    succeed(ranks(2), "run", config)
    return time.perf_counter() - began


@pytest.mark.parametrize(
    ("kills", "seed"),
    [
        (1, 1),
        *(pytest.param(1, seed, marks=pytest.mark.full) for seed in range(100, 120)),
        pytest.param(5, 7, marks=pytest.mark.full),
    ],
)
def test_a_run_killed_anywhere_finishes_with_the_same_bytes(undisturbed, config, output, seconds, kills, seed):
    finish_after_kills(undisturbed, config, output, seconds, kills, seed)


@pytest.mark.full
@pytest.mark.skipif(not GUTENBERG.is_dir(), reason=f"no books in {GUTENBERG}")
@pytest.mark.timeout(1800)
def test_the_books_are_the_same_bytes_at_any_number_of_processes(tmp_path):
    config = {
        "corpora": [
            {
                "name": "gutenberg",
                "files": [str(GUTENBERG / "train-*.jsonl.zst")],
                "heldout_files": [str(GUTENBERG / "heldout.jsonl.zst")],
                "dedupe": "near",
                "min_length": 128,
                "languages": ["en"],
            }
        ],
        "tokenizer": {"vocab_size": 8000, "algorithm": "byte_level_bpe", "family": "gpt2"},
    }
    trees = []
    for count in (1, 2, 3):
        output = tmp_path / str(count)
        path = written(tmp_path / f"{count}.yaml", {"output_dir": str(output), **config})
        done = subprocess.run([*(ranks(count) if count > 1 else ALONE), "run", str(path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        trees.append(tree(output))
    assert trees[0] == trees[1] == trees[2]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_worker_ends_the_run_at_once(config, victim):
    process = subprocess.Popen(
        [*ranks(2), "run", str(config)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        assert process.stdout.readline().startswith("data: plan")
        workers = [p for p in psutil.Process(process.pid).children(recursive=True) if "data_prep" in p.cmdline()]
        workers[victim].kill()
        output, _ = process.communicate(timeout=10)
        assert process.returncode != 0 and "Killed (signal 9)" in output
        psutil.wait_procs(workers, timeout=5)
        assert not any(worker.is_running() for worker in workers)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


SMALL_FILES = """
import resource, runpy, sys
if "mpi4py" in sys.modules:
    from mpi4py import MPI  # whose own files are larger
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
runpy.run_module("data_prep", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("count", [1, 2], ids=["alone", "two"])
def test_a_full_disk_ends_the_run_in_a_sentence_and_room_lets_it_go_on(undisturbed, config, output, count):
    command = ALONE if count == 1 else ranks(count)
    refused([*command[:-2], "-c", SMALL_FILES], "run", config, says="File too large; free disk space")
    assert not (output / "manifest.json").exists()
    # Where one of two gives up, the other is ended in mid-write: what it leaves has a name that nobody reads.
    assert count > 1 or not list(output.rglob("*.partial"))
    succeed(command, "run", config)
    assert tree(output) == tree(undisturbed)


def test_wrong_input_is_refused_once_by_many_processes(corpus_folder, tmp_path, output):
    content = configuration(corpus_folder, output)
    content["corpora"][0]["files"] = ["nowhere/*.jsonl"]
    done = run(ranks(2), "run", written(tmp_path / "c.yaml", content))
    assert done.returncode == 2 and done.stderr.count("nowhere/*.jsonl: no such file") == 1 and "Traceback" not in done.stderr


def test_a_bad_record_found_by_one_process_ends_all(tmp_path, output):
    folder = tmp_path / "corpus"
    write_corpus(folder, 800)
    with open(folder / "a.jsonl", "ab") as file:
        file.write(b"not json\n")
    content = configuration(folder, output)
    content["corpora"][0]["max_bad_records"] = 0
    refused(ranks(2), "run", written(tmp_path / "c.yaml", content), says=": not JSON")


def test_several_processes_that_know_nothing_of_each_other_are_refused(config, output):
    refused(typed(["mpiexec", "-n", "2", *ALONE]), "run", config, says="-m mpi4py -m data_prep")
    assert not output.exists()


def test_check_names_the_folder_and_what_is_missing_and_writes_nothing(config, output, tmp_path):
    assert succeed(ALONE, "check", config) == f"{output}\n"
    nothing = written(tmp_path / "d.yaml", configuration(tmp_path / "nothing", output))
    refused(ALONE, "check", nothing, says=str(tmp_path / "nothing"))
    assert not output.exists()


def test_inspect_shows_counts_reasons_and_text(undisturbed):
    shown = succeed(ALONE, "inspect", undisturbed)
    for part in ("most (weight 2)", "2,400 documents", "exact copy", "near copy", "tokens a sequence", "    | "):
        assert part in shown, part


def test_verify_names_what_is_damaged(undisturbed, tmp_path):
    assert "as they were written" in succeed(ALONE, "verify", undisturbed)
    copy = shutil.copytree(undisturbed, tmp_path / "copy")
    shard = next(copy.glob("shards/most/train-*.bin"))
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    (copy / "dropped.jsonl").unlink()
    done = run(ALONE, "verify", copy)
    assert done.returncode == 2
    assert f"{shard}: damaged" in done.stderr and f"{copy / 'dropped.jsonl'}: missing" in done.stderr
    assert "2 of " in done.stderr


def stopped_in(stage: str, config: Path, output: Path) -> None:
    """Run alone and kill it at the line of a stage."""
    process = subprocess.Popen([*ALONE, "run", str(config)], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith(f"data: {stage} "):
            break
    process.kill()
    process.communicate()
    assert not (output / "manifest.json").exists()


def test_inputs_that_changed_since_the_plan_are_refused(corpus_folder, tmp_path, output):
    folder = shutil.copytree(corpus_folder, tmp_path / "corpus")
    config = written(tmp_path / "c.yaml", configuration(folder, output))
    stopped_in("clean", config, output)
    path = folder / "a.jsonl"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"more", b"less"))  # of equal length
    refused(ALONE, "run", config, says=f"{path}: has changed since")
    path.write_bytes(content)  # back, if with another time
    succeed(ALONE, "run", config)


def test_what_was_refused_is_mended_and_started_again(undisturbed, corpus_folder, tmp_path, output):
    """Settings and inputs may change after a refusal; nothing of what was done for the others stays."""
    folder = shutil.copytree(corpus_folder, tmp_path / "corpus")
    content = configuration(folder, output)
    content["corpora"][0]["max_bad_records"] = 0
    bad = folder / "a.jsonl"
    bad.write_bytes(b"not json\n" + bad.read_bytes())
    refused(ALONE, "run", written(tmp_path / "c.yaml", content), says="a.jsonl: line 1")
    # Parts of other sizes come first, so that files of an earlier attempt would be left over.
    content["corpora"][0]["max_bad_records"] = 1
    content["tokenizer"] = {"vocab_size": 10**6}
    refused(ALONE, "run", written(tmp_path / "c.yaml", content), says="tokenizer.vocab_size: 1000000 does not fit")
    bad.write_bytes((corpus_folder / "a.jsonl").read_bytes())
    succeed(ALONE, "run", written(tmp_path / "c.yaml", configuration(folder, output)))
    # Only where the corpus lies differs.
    assert {name for name, digest in tree(output).items() if tree(undisturbed).get(name) != digest} == {
        "manifest.json",
        "plan.json",
        # It says where passages of evaluation sets stand.
        "dropped.jsonl",
        *(name for name in tree(output) if "/part-" in name),
    }
    assert tree(output).keys() == tree(undisturbed).keys()


def test_an_interrupted_run_says_how_to_go_on(config, output):
    def listening():
        # A shell's background job ignores SIGINT, and so would what it starts.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(
        [*ALONE, "run", str(config)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listening
    )
    next(line for line in process.stdout if line.startswith("data: clean"))
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=30)
    assert process.returncode == 130 and message == "the preparation was stopped; start the same command again to continue it\n"
    refused(ALONE, "inspect", output, says="started and not finished")


def test_existing_shards_are_taken_as_they_are(undisturbed, tmp_path, output):
    content = {
        "output_dir": str(output),
        "corpora": [
            {
                "name": "old",
                "shards": [str(undisturbed / "shards/most/train-*.idx")],
                "heldout_shards": [str(undisturbed / "shards/most/heldout-*.idx")],
            }
        ],
        "tokenizer": {"path": str(undisturbed / "tokenizer")},
    }
    succeed(ALONE, "run", written(tmp_path / "c.yaml", content))
    old, new = PreparedData(undisturbed).corpora[0], PreparedData(output).corpora[0]
    for split in (TRAIN, HELDOUT):
        assert new.splits[split].tokens == old.splits[split].tokens
        assert new.splits[split].documents == old.splits[split].documents
    assert not list(output.rglob("*.bin"))
    succeed(ALONE, "verify", output)
