import json
import shutil
from pathlib import Path

import pytest

from data_prep.jobs.workers import Alone
from data_prep.manifest import MANIFEST, PLAN, PreparedData
from data_prep.plans.frozen_plan import read_plan, write_plan
from data_prep.prepare import prepare_together
from data_prep.stages.publish import fetch
from data_prep.stages.verify import damaged
from data_prep.storage import stores
from data_prep.storage.stores import Remote, UnreachableError
from pipeline.common.errors import UserError
from pipeline.common.files import json_digest
from tests.data_prep.preparing import BYTE_LEVEL, modified, preparation
from tests.data_prep.prose import made_up_texts
from tests.messages import taken_by

URL = "s3://bucket/prepared/books"


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "books.txt"
    path.write_text("\n\n".join(made_up_texts(60)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def prepared(text) -> Path:
    """A folder that is prepared here, not to be changed."""
    run(text, str(text.parent / "prepared"))
    return text.parent / "prepared"


@pytest.fixture(autouse=True)
def empty(tmp_path, bucket, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stores, "_PAUSES", ())
    if bucket.exists("bucket/prepared"):
        bucket.rm("bucket/prepared", recursive=True)


@pytest.fixture
def work(prepared, tmp_path) -> str:
    """A folder that is prepared, and is to be published."""
    shutil.copytree(prepared, tmp_path / "work")
    return "work"


def run(text: Path, output: str, **options: object) -> list[str]:
    lines: list[str] = []
    corpus = {"files": [str(text)], "heldout_fraction": 0.2}
    with taken_by(lines.append):
        prepare_together(preparation(output, corpus, tokenizer=BYTE_LEVEL | {"family": "gpt2"}, **options), Alone())
    return lines


def uploads(monkeypatch, fails_at: int | None = None) -> list[str]:
    """What is uploaded from now on, in order; the store fails at the given file."""
    names: list[str] = []
    upload = Remote.upload

    def recorded(self: Remote, file: Path) -> None:
        if len(names) == fails_at:
            raise UnreachableError(f"{self}: cannot be written")
        names.append(self.url.removeprefix(f"{URL}/"))
        upload(self, file)

    monkeypatch.setattr(Remote, "upload", recorded)
    return names


def test_a_folder_goes_to_a_store_and_comes_back_as_it_is_prepared_here(text, prepared, tmp_path):
    here = PreparedData(prepared)
    assert run(text, URL)[-1] == f"data: {URL} is published, out of books.prepared, which is no longer needed"
    back = fetch(URL, tmp_path / "back")
    assert back.manifest == here.manifest
    assert not damaged(back)
    names = [{path.relative_to(data.directory) for path in modified(data.directory)} for data in (back, here)]
    assert names[0] == names[1]


def test_publishing_goes_on_where_it_stopped_and_the_manifest_comes_last(text, work, bucket, monkeypatch):
    with monkeypatch.context() as patch:
        first = uploads(patch, fails_at=4)
        with pytest.raises(UserError, match="cannot be written"):
            run(text, URL, work_dir=work)
    assert len(first) == 4 and first[0] == PLAN
    assert not bucket.exists(f"{URL}/{MANIFEST}")
    bucket.rm(f"{URL}/{first[0]}")
    bucket.pipe(f"{URL}/{first[1]}", b"something else")
    second = uploads(monkeypatch)
    run(text, URL, work_dir=work)
    assert second[-1] == MANIFEST
    assert set(first[:2]) <= set(second) and not set(first[2:]) & set(second)
    assert {*first, *second} == {*PreparedData(Path("work")).manifest.files, MANIFEST}
    assert not Path("work.published").exists()


def test_what_is_published_is_not_prepared_again_and_other_settings_are_refused(text, work):
    run(text, URL, work_dir=work)
    assert run(text, URL, work_dir="elsewhere") == [f"data: {URL} is published already"]
    assert not Path("elsewhere").exists()
    with pytest.raises(UserError, match=f"{URL}: was started with another `part_mib`; .* name another output_dir"):
        run(text, URL, part_mib=2)


def test_what_was_begun_there_with_other_settings_or_of_other_text_is_refused(text, work, bucket, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(UserError, match="cannot be written"):
        uploads(patch, fails_at=1)
        run(text, URL, work_dir=work)
    assert [Path(name).name for name in bucket.find(URL)] == [PLAN]
    with pytest.raises(UserError, match=f"{URL}: was started with another `part_mib`; .* name another output_dir"):
        run(text, URL, part_mib=2)
    assert not Path("books.prepared").exists()
    plan = read_plan(Path(work, PLAN))
    write_plan(Path("other.json"), plan.model_copy(update={"digest": "0" * 32}))
    bucket.put_file("other.json", f"{URL}/{PLAN}")
    with pytest.raises(UserError, match=f"{URL}: another preparation was started there by its plan.json"):
        run(text, URL, work_dir=work)
    assert [Path(name).name for name in bucket.find(URL)] == [PLAN]


@pytest.mark.parametrize("name", [PLAN, "shards/text/train-00000.bin"])
def test_another_job_that_writes_there_meanwhile_is_noticed_before_the_manifest(text, work, bucket, monkeypatch, name):
    upload = Remote.upload

    def disturbed(self: Remote, file: Path) -> None:
        upload(self, file)
        if self.url != f"{URL}/{name}":
            bucket.pipe(f"{URL}/{name}", b"another job's")

    monkeypatch.setattr(Remote, "upload", disturbed)
    with pytest.raises(UserError, match=f"{URL}: {name} was written by another job meanwhile; let one job write there"):
        run(text, URL, work_dir=work)
    assert not bucket.exists(f"{URL}/{MANIFEST}")


@pytest.mark.parametrize("name", [".", "", "/", "a/..", "s3://bucket/work"])
def test_a_work_dir_that_is_no_folder_s_name_here_is_refused_when_it_is_read(text, tmp_path, name):
    with pytest.raises(ValueError, match=r"work_dir: .* is no name of a folder here"):
        run(text, URL, work_dir=name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://nobucket/books", "s3://nobucket/books/.writable: no such file, bucket"),
        ("https://127.0.0.1:1/books", "output_dir: https://127.0.0.1:1/books: a web server takes no files"),
        ("nostore://books/books", "unknown kind of store"),
    ],
)
def test_a_store_that_takes_nothing_is_refused_before_anything_is_prepared(text, tmp_path, url, message):
    with pytest.raises(UserError, match=message):
        run(text, url)
    assert not list(tmp_path.iterdir())


def test_what_comes_back_otherwise_is_refused_and_what_is_whole_is_kept(text, work, bucket, tmp_path):
    run(text, URL, work_dir=work)
    name = "plan.json"
    content = bucket.cat_file(f"{URL}/{name}")
    bucket.pipe(f"{URL}/{name}", content[:-1] + b" ")
    with pytest.raises(UserError, match=r"plan\.json: is not what was published, by its hash"):
        fetch(URL, tmp_path / "back")
    assert not (tmp_path / "back" / MANIFEST).exists()
    bucket.pipe(f"{URL}/{name}", content)
    kept = modified(tmp_path / "back")
    assert kept and not damaged(fetch(URL, tmp_path / "back"))
    assert kept.items() <= modified(tmp_path / "back").items()


def test_a_manifest_that_leads_out_of_its_folder_is_refused(text, work, bucket, tmp_path):
    run(text, URL, work_dir=work)
    manifest = json.loads(bucket.cat_file(f"{URL}/{MANIFEST}"))
    for name in ("../outside", str(tmp_path / "outside")):
        manifest["files"][name] = "0" * 32
        manifest["digest"] = json_digest(manifest)
        bucket.pipe(f"{URL}/{MANIFEST}", json.dumps(manifest).encode())
        with pytest.raises(UserError, match="which is not in its folder"):
            fetch(URL, tmp_path / "back")
        del manifest["files"][name]
    bucket.pipe(f"{URL}/{MANIFEST}", json.dumps(manifest).encode())
    with pytest.raises(UserError, match="the manifest is damaged"):
        fetch(URL, tmp_path / "back")


def test_a_folder_without_a_manifest_is_no_prepared_data(bucket, tmp_path):
    with pytest.raises(UserError, match=r"no manifest\.json is there, so it is no prepared data, or not published to its end"):
        fetch("s3://bucket/nothing", tmp_path / "back")
    assert not (tmp_path / "back").exists()
