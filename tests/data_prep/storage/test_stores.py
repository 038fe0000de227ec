import bz2
import gzip
import io
import json
import random
import struct
import sys
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from data_prep.decontamination.evaluation_sets import files_of, texts_of
from data_prep.jobs.workers import Alone
from data_prep.manifest import MANIFEST, PLAN
from data_prep.plans.drafting import draft_plan, expand
from data_prep.prepare import prepare_together
from data_prep.settings import DataPrepConfig
from data_prep.storage import stores
from data_prep.storage.stores import Remote, content_digest, raw_file
from data_prep.text.readers import ranges_of_file, read_range
from data_prep.text.rejects import Rejects
from pipeline.common.errors import UserError
from tests.benchmarks.memory import Watched
from tests.data_prep.preparing import BYTE_LEVEL, modified, preparation
from tests.data_prep.prose import made_up_texts
from tests.data_prep.text.reading import config
from tests.hub import Hub, ask
from tests.hub import serving as serving_hub
from tests.messages import taken_by
from tests.stores import S3_SECRET, Web, serving

TEXTS = made_up_texts(400)
LINES = "".join(json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(TEXTS)).encode()


def parquet(texts: list[str]) -> bytes:
    file = io.BytesIO()
    other = [random.Random(number).randbytes(4000) for number in range(len(texts))]
    pyarrow.parquet.write_table(pyarrow.table({"other": other, "text": texts}), file, row_group_size=100)
    return file.getvalue()


def pzstd(content: bytes, size: int) -> bytes:
    frames = [zstandard.compress(content[start : start + size]) for start in range(0, len(content), size)]
    return b"".join(struct.pack("<III", 0x184D2A50, 4, len(frame)) + frame for frame in frames)


FILES = {
    "a.jsonl": LINES,
    "a.txt": "\n\n".join(text.replace("\n\n", "\n") for text in TEXTS).encode(),
    "a.json": json.dumps([{"text": text} for text in TEXTS]).encode(),
    "a.jsonl.gz": gzip.compress(LINES),
    "a.jsonl.bz2": bz2.compress(LINES),
    "a.jsonl.zst": pzstd(LINES, 40_000),
    "a.parquet": parquet(TEXTS),
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(stores, "_PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(stores, "_BLOCK", 1 << 16)


@pytest.fixture
def web():
    with serving(Web(dict(FILES))) as server:
        yield server


@pytest.fixture(scope="module")
def s3(bucket):
    others = {"deep/b.txt": b"b", "deep/.hidden/c.txt": b"c", "notes.md": b"", "Z.txt": b"z"}
    for name, content in (FILES | others).items():
        bucket.pipe(f"bucket/all/{name}", content)
    return bucket


def read(url: str, range_bytes: int, rejects: Rejects | None = None, **options: object) -> list[str]:
    corpus = config(**options)
    rejects = Rejects() if rejects is None else rejects
    ranges = ranges_of_file(Remote(url), corpus, range_bytes)
    return [document.text for input_range in ranges for document in read_range(input_range, corpus, rejects)]


def stripped(texts: list[str]) -> list[str]:
    return [text.strip() for text in texts]


def expected(name: str) -> list[str]:
    return stripped(text.replace("\n\n", "\n") for text in TEXTS) if name == "a.txt" else stripped(TEXTS)


@pytest.mark.parametrize("name", FILES)
def test_a_bucket_s_files_give_the_documents_of_local_ones_by_ranges(s3, name):
    url = f"s3://bucket/all/{name}"
    assert stripped(read(url, 100_000)) == expected(name)
    ranges = len(ranges_of_file(Remote(url), config(), 100_000))
    assert ranges > 1 or name in ("a.json", "a.jsonl.gz", "a.jsonl.bz2")


def test_the_hub_s_files_give_the_documents_of_local_ones_by_their_blobs(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    for name in ("a.jsonl", "a.parquet", "a.jsonl.zst"):
        (tmp_path / "data" / name).write_bytes(FILES[name])
    file_system = fsspec.get_filesystem_class("hf")
    with serving_hub(Hub({"owner/texts": {"main": tmp_path}})) as hub:
        ask(monkeypatch, hub.endpoint, tmp_path / "cache")
        file_system.clear_instance_cache()
        files = expand(["hf://datasets/owner/texts/data"], "files", [])
        assert [file.name for file in files] == ["a.jsonl", "a.jsonl.zst", "a.parquet"]
        assert files[:1] == expand(["hf://datasets/owner/texts/**/*.jsonl"], "files", [])
        for file in files:
            assert len(ranges_of_file(file, config(), 100_000)) > 1
            assert stripped(read(str(file), 100_000)) == stripped(TEXTS)
        input_range, *_ = ranges_of_file(files[0], config(), 1 << 20)
        assert "blob:" in input_range.fingerprint
        (tmp_path / "data" / "a.jsonl").write_bytes(LINES[:-1] + b" ")
        with pytest.raises(UserError, match=r"a\.jsonl: has changed since the plan was made"):
            list(read_range(input_range, config(), Rejects()))
        with pytest.raises(UserError, match=r"hf://datasets/owner/none/a\.txt: no such file, bucket or repository"):
            expand(["hf://datasets/owner/none/a.txt"], "files", [])
    file_system.clear_instance_cache()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("ranges", "tags"), [(True, True), (False, True), (True, False)])
def test_a_web_server_s_files_give_the_documents_of_local_ones(web, name, ranges, tags):
    web.ranges, web.tags = ranges, tags
    if name == "a.parquet" and not ranges:
        with pytest.raises(UserError, match=r"a\.parquet: the server gives no parts of a file, .* download it"):
            read(web.url(name), 100_000)
        return
    assert stripped(read(web.url(name), 100_000)) == expected(name)
    # A server that gives no parts sends a whole file for each range: it is to be one.
    assert ranges or len(ranges_of_file(Remote(web.url(name)), config(), 100_000)) == 1


def test_only_the_column_of_the_text_is_asked_for(web):
    assert read(web.url("a.parquet"), 1) == TEXTS
    assert web.sent["a.parquet"] < len(FILES["a.parquet"]) / 2


@pytest.mark.parametrize(
    ("fault", "ranges", "reason"),
    [("breaks", True, ".*"), ("breaks", False, ".*"), ("short", True, ".* bytes came where .* were asked for")],
)
def test_an_answer_that_is_not_whole_is_asked_for_again_and_never_taken_for_the_end(web, fault, ranges, reason):
    web.ranges, faults = ranges, getattr(web, fault)
    faults["a.jsonl"] = 2
    with raw_file(Remote(web.url("a.jsonl")), lambda _: None, 1 << 30) as file:
        assert file.readall() == LINES
    assert not faults["a.jsonl"]
    faults["a.jsonl"] = 1000
    with pytest.raises(UserError, match=rf"a\.jsonl: cannot be read, tried 4 times \({reason}\); start the same command again"):
        read(web.url("a.jsonl"), 1 << 30, bad_files="skip")


@pytest.mark.parametrize("bad_files", ["skip", "refuse"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_store_that_fails_is_no_damaged_file(web, name, bad_files):
    corpus = config(bad_files=bad_files)
    input_range, *_ = ranges_of_file(Remote(web.url(name)), corpus, 1 << 30)
    web.breaks[name] = 1000
    rejects = Rejects()
    with pytest.raises(UserError, match=f"{name}: cannot be read, tried 4 times"):
        list(read_range(input_range, corpus, rejects))
    assert not rejects.counts


def test_a_file_that_changes_is_noticed(web, s3):
    for url, change in (
        (web.url("a.jsonl"), lambda: web.files.update({"a.jsonl": LINES[:-1] + b" "})),
        ("s3://bucket/all/a.jsonl", lambda: s3.pipe("bucket/all/a.jsonl", LINES[:-1] + b" ")),
    ):
        corpus = config()
        input_range, *_ = ranges_of_file(Remote(url), corpus, 1 << 17)
        documents = read_range(input_range, corpus, Rejects())
        next(documents)
        change()
        with pytest.raises(UserError, match=r"a\.jsonl: has changed"):
            list(documents)
        with pytest.raises(UserError, match=r"a\.jsonl: has changed since the plan was made"):
            list(read_range(input_range, corpus, Rejects()))
    s3.pipe("bucket/all/a.jsonl", LINES)


REFUSED = {
    "http://127.0.0.1:{port}/gone.txt": "no such file, bucket or repository at the store",
    "http://127.0.0.1:{port}/*.txt": "a web server does not list its files, so name them one by one",
    "http://127.0.0.1:{port}/secret.txt": r"the store does not give it \(status 403\); check the credentials",
    "http://127.0.0.1:{port}/teapot.txt": "the server answers 418",
    "http://127.0.0.1:{port}/broken.txt": r"cannot be read, tried 4 times \(.*500",
    "http://user:secret@127.0.0.1:{port}/a.txt": "has a password in its URL",
    "http://127.0.0.1:{port}/a.txt?X-Amz-Signature=secret": "has `X-Amz-Signature` in its URL",
    "http://secret@127.0.0.1:{port}/a.txt": "has a user in its URL",
    "http://127.0.0.1:{port}/a.txt#token=secret": "has `token` in its URL",
    "http://[127.0.0.1/a.txt?token=secret": r"http://\[127.0.0.1/a.txt: no URL",
    "s3://bucket/gone.txt": "no such file, bucket or repository at the store",
    "s3://nobucket/a.txt": "no such file, bucket or repository at the store",
    "s3://bucket/all/*.csv": "no such file; files takes",
    "nostore://a/a.txt": "unknown kind of store",
}


@pytest.mark.parametrize("url", REFUSED)
def test_what_cannot_be_had_is_refused_in_a_sentence_without_secrets(web, s3, url):
    web.refusals.update({"secret.txt": 403, "teapot.txt": 418, "broken.txt": 500})
    with pytest.raises(UserError, match=REFUSED[url]) as refused:
        expand([url.format(port=web.port)], "files", [])
    assert not any(part in str(refused.value) for part in ("secret@", "=secret", "\n"))


def test_a_store_s_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=r"gs://bucket/a.txt: needs the Python package gcsfs; run pip install gcsfs"):
        expand(["gs://bucket/a.txt"], "files", [])


def test_folders_and_globs_of_a_bucket_name_what_they_name_here(s3):
    def names(pattern: str) -> list[str]:
        return [str(path).removeprefix("s3://bucket/all/") for path in expand([pattern], "files", left_out)]

    left_out: list[str] = []
    everything = ["Z.txt", "a.json", "a.jsonl", "a.jsonl.bz2", "a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.txt", "deep/b.txt"]
    assert names("s3://bucket/all") == everything
    assert names("s3://bucket/all/") == everything
    others = "1 .md files (the first: notes.md), 1 hidden (the first: deep/.hidden)"
    assert left_out[0] == f"s3://bucket/all: left out are {others}"
    assert names("s3://bucket/all/**/[ab].txt") == ["a.txt", "deep/b.txt"]
    assert names("s3://bucket/all/a.json") == ["a.json"]


def test_a_set_s_texts_are_read_from_a_store(web, s3):
    web.files["set.tsv"] = b"a\tb\n"
    for url, size in (("s3://bucket/all/a.jsonl.gz", 400), ("s3://bucket/all/a.parquet", 400), (web.url("set.tsv"), 2)):
        (path,) = files_of([url], "sets")
        assert len([text for text in texts_of(path) if "\ufffd" not in text]) >= size


def test_a_digest_is_what_the_store_says_or_else_the_content_s(web, s3, tmp_path):
    here = tmp_path / "a.jsonl"
    here.write_bytes(LINES)
    web.tags = False
    inputs = draft_plan(asked(tmp_path, [str(here), web.url("a.jsonl"), "s3://bucket/all/a.jsonl"])).inputs
    assert [item.digest.partition(":")[0] for item in inputs] == ["", "", "etag"]
    assert content_digest(Remote(web.url("a.jsonl"))) == content_digest(here)


def asked(folder: Path, files: list[str]) -> DataPrepConfig:
    return preparation(folder, {"files": files}, tokenizer=BYTE_LEVEL | {"family": "gpt2"}, part_mib=1)


def test_a_preparation_of_a_bucket_leaves_the_shards_of_local_files(s3, tmp_path):
    names = ["a.jsonl.zst", "a.parquet"]
    for name in names:
        (tmp_path / name).write_bytes(FILES[name])
    shards = []
    searched: set[str] = set()

    def search(line: str) -> None:
        for path in modified(tmp_path / "there"):
            assert S3_SECRET.encode() not in path.read_bytes(), path
            searched.add(path.relative_to(tmp_path / "there").parts[0])

    for folder, place in (("here", tmp_path), ("there", "s3://bucket/all")):
        files = [f"{place}/{name}" for name in names]
        with taken_by(search):
            prepare_together(asked(tmp_path / folder, files), Alone())
        search("")
        shards.append({path.name: path.read_bytes() for path in (tmp_path / folder / "shards").rglob("*.bin")})
    assert shards[0] == shards[1] != {}
    assert {PLAN, MANIFEST, "work", "shards"} <= searched


def test_what_is_done_stays_where_a_store_fails(web, tmp_path):
    web.tags = False  # so that the plan has a stage, after which the store fails
    web.files |= {"a.jsonl": LINES * 8, "b.jsonl": LINES}

    def fail(line: str) -> None:
        if line.startswith("data: plan"):
            web.breaks["b.jsonl"] = 1000

    config = asked(tmp_path / "there", [web.url("a.jsonl"), web.url("b.jsonl")])
    with pytest.raises(UserError, match=r"b\.jsonl: cannot be read, tried 4 times"), taken_by(fail):
        prepare_together(config, Alone())
    done = modified(tmp_path / "there" / "work" / "clean")
    assert any(path.suffix == ".json" for path in done)
    # The input was not at fault: the plan stays frozen.
    assert not (tmp_path / "there" / "work" / "refused").exists()
    web.breaks.clear()
    sent = web.sent["a.jsonl"]
    kept: dict[Path, int] = {}

    def look(line: str) -> None:
        if line.startswith("data: clean"):
            kept.update(modified(tmp_path / "there" / "work" / "clean"))

    with taken_by(look):
        prepare_together(config, Alone())
    assert done.items() <= kept.items()
    # Its content is hashed again, for want of an ETag, and its last range, which shares a slice with the other file, read.
    assert web.sent["a.jsonl"] - sent < len(LINES) * 8 * 1.2


def test_files_are_read_in_memory_of_a_block_however_large_they_are(web, monkeypatch):
    monkeypatch.setattr(stores, "_BLOCK", 1 << 20)
    web.files["large.jsonl"] = LINES * 64
    corpus = config()
    assert len(web.files["large.jsonl"]) > 16 << 20
    for name, copies in (("a.jsonl", 1), ("large.jsonl", 64)):
        with Watched() as watched:
            (input_range,) = ranges_of_file(Remote(web.url(name)), corpus, 1 << 30)
            assert sum(1 for _ in read_range(input_range, corpus, Rejects())) == copies * len(TEXTS)
    # Two blocks of 1 MiB, and what the server sends.
    assert watched.peak < 8 << 20
