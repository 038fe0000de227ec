"""The list of a checkpoint's files, copies in the host's memory, and which checkpoints stay."""

import json
import os
import threading
from dataclasses import asdict

import pytest
import torch
from torch import nn
from transformers import GPT2Config

from pipeline.common.errors import UserError
from pipeline.growth.integrity import FILES, HashedFile, damage, seal
from pipeline.recipe import CheckpointingConfig
from pipeline.runs import JsonLines
from pipeline.training.directory.checkpoints import Checkpoints, TrainState, _Pending, _Writer
from pipeline.training.directory.snapshot import on_host
from tests.messages import collected


@pytest.fixture
def sealed(tmp_path):
    directory = tmp_path / "tag"
    (directory / "sub").mkdir(parents=True)
    file = HashedFile(directory / "a.pt")
    torch.save({"a": torch.arange(5000)}, file)
    known = {"a.pt": file.close()}
    (directory / "b.json").write_text("{}")
    (directory / "sub" / "c").write_bytes(os.urandom(100))
    seal(directory, known)
    return directory


def test_a_hashed_file_is_what_torch_wrote_and_its_digest_that_of_the_file(sealed):
    assert torch.equal(torch.load(sealed / "a.pt", mmap=True, weights_only=True)["a"], torch.arange(5000))
    assert damage(sealed) is None
    again = (sealed / FILES).read_text()
    seal(sealed)
    assert (sealed / FILES).read_text() == again


@pytest.mark.parametrize("name", ["a.pt", "b.json", "sub/c", FILES])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.999])
def test_any_flipped_bit_anywhere_is_noticed_and_its_file_named(sealed, name, place):
    content = bytearray((sealed / name).read_bytes())
    content[int(place * len(content))] ^= 1
    (sealed / name).write_bytes(content)
    assert damage(sealed).startswith(f"{sealed / name}: ")


def test_each_part_reads_its_share_and_together_they_read_all(sealed):
    for name in ("a.pt", "b.json", "sub/c"):
        content = (sealed / name).read_bytes()
        (sealed / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
        assert [damage(sealed, part, 3) is not None for part in range(3)].count(True) == 1
        (sealed / name).write_bytes(content)


def test_a_file_that_could_not_be_written_is_an_error_when_it_is_closed(tmp_path):
    """Whatever torch's writer makes of it in between."""
    file = HashedFile(tmp_path / "a.pt")
    file._file.close()
    file._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    torch.save({"a": torch.zeros(100000)}, file)
    with pytest.raises(OSError, match="No space left"):
        file.close()


def test_a_copy_in_host_memory_keeps_values_shared_storage_and_kinds_and_follows_nothing():
    whole = torch.arange(12.0)
    state = {
        "whole": whole,
        "rows": whole.view(3, 4)[1:],
        "parameter": nn.Parameter(torch.ones(2)),
        "kept": [{"step": torch.tensor(3.0)}, (torch.zeros(0), "word")],
        "bf16": torch.ones(3, dtype=torch.bfloat16),
    }
    # As DeepSpeed numbers its parameters; torch writes such words with the tensor.
    state["parameter"].ds_id = 3
    held = on_host(state)
    whole += 1
    state["kept"][0]["step"] += 1
    assert torch.equal(held["whole"], torch.arange(12.0)) and torch.equal(held["rows"], torch.arange(12.0).view(3, 4)[1:])
    assert held["rows"].untyped_storage().data_ptr() == held["whole"].untyped_storage().data_ptr()
    assert held["kept"][0]["step"] == 3 and held["kept"][1][1] == "word" and held["bf16"].dtype is torch.bfloat16
    assert isinstance(held["parameter"], nn.Parameter) and held["parameter"].requires_grad
    assert held["parameter"].ds_id == 3


@pytest.mark.parametrize(
    ("unwritable", "reason"), [(lambda: None, "pickle"), (MemoryError(), "MemoryError"), (KeyError("gone"), "KeyError 'gone'")]
)
def test_whatever_keeps_a_file_from_being_written_is_a_failure_and_leaves_no_digest(tmp_path, unwritable, reason):
    class Unwritable:
        def __reduce__(self):
            raise unwritable

    bad = Unwritable() if isinstance(unwritable, Exception) else unwritable
    writer = _Writer(tmp_path, later=True)
    writer.save({"whole": torch.zeros(3)}, str(tmp_path / "b.pt"))
    writer._copies.append(({"tensor": torch.zeros(1000), "bad": bad}, str(tmp_path / "a.pt")))
    thread = threading.Thread(target=writer.write)
    thread.start()
    thread.join()
    assert writer.failure.startswith(f"{tmp_path / 'a.pt'}: ") and reason in writer.failure
    assert not writer.digests


def tags(*steps: int) -> list[str]:
    return [f"step-{step:08d}" for step in steps]


@pytest.mark.parametrize(
    ("keep", "keep_every", "kept"),
    [
        (1, None, [50]),
        (2, None, [40, 50]),
        (9, None, [10, 20, 30, 40, 50]),
        (1, 20, [20, 40, 50]),
        (2, 30, [30, 40, 50]),
        (2, 50, [40, 50]),
    ],
)
def test_the_newest_stay_and_the_multiples_for_good(tmp_path, keep, keep_every, kept):
    # Steps beyond the newest are damaged ones, before which the run has started again.
    for name in [*tags(10, 20, 30, 40, 50, 60, 100), "step-00000070.partial", "step-00000000.deleted"]:
        (tmp_path / name).mkdir()
    Checkpoints(tmp_path, CheckpointingConfig(keep=keep, keep_every=keep_every))._remove_old(*tags(50))
    assert sorted(path.name for path in tmp_path.iterdir()) == tags(*kept)


def test_a_checkpoint_loses_its_name_before_its_files(tmp_path, monkeypatch):
    for name in tags(1, 2):
        (tmp_path / name).mkdir()
    removed = []
    monkeypatch.setattr("shutil.rmtree", lambda path, **_: removed.append(path.name))
    Checkpoints(tmp_path, CheckpointingConfig(keep=1))._remove_old(*tags(2))
    assert {*removed} == {"step-00000001.deleted"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001.deleted", *tags(2)]


MODEL, RANKS_MODEL, OPTIMIZER = (
    "mp_rank_00_model_states.pt",
    "zero_pp_rank_{}_mp_rank_00_model_states.pt",
    "zero_pp_rank_{}_mp_rank_00_optim_states.pt",
)


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Publish a checkpoint of two ranks, files of these names having been written; return how it went and what was said."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("pipeline.training.distributed.on_first_rank", lambda work: work())
    monkeypatch.setattr(torch.distributed, "all_gather_object", lambda found, own: found.__setitem__(slice(None), [own, own]))

    def work(stage, names, step=2):
        temporary = tmp_path / f"step-{step:08d}.partial"
        writer = _Writer(temporary, later=False)
        temporary.mkdir()
        for name in names:
            writer.save({}, str(temporary / name))
        checkpoints = Checkpoints(tmp_path, CheckpointingConfig(keep=1))
        checkpoints._pending = _Pending(writer, GPT2Config(), TrainState(step=step), stage, None)
        with collected() as said:
            return checkpoints.finish(), said

    return work


@pytest.mark.parametrize(
    ("stage", "names"),
    [
        (0, [MODEL]),
        (1, [MODEL, *("bf16_" + OPTIMIZER.format(rank) for rank in (0, 1))]),
        (2, [MODEL, *map(OPTIMIZER.format, (0, 1))]),
        (3, [*map(RANKS_MODEL.format, (0, 1)), *map(OPTIMIZER.format, (0, 1))]),
    ],
)
def test_a_checkpoint_without_a_file_of_some_rank_is_not_published(tmp_path, publish, stage, names):
    for name in names:
        went_well, (said,) = publish(stage, [other for other in names if other != name])
        assert not went_well and f"{name.removeprefix('bf16_')}: not written by its rank" in said
        assert not any(tmp_path.iterdir())
    assert publish(stage, names) == (True, [])
    assert damage(tmp_path / "step-00000002") is None


def test_a_checkpoint_is_saved_though_an_older_one_cannot_be_removed(tmp_path, publish, monkeypatch):
    replace = os.replace

    def refuse(old, new):
        if str(new).endswith(".deleted"):
            raise PermissionError(13, "Permission denied", str(old))
        replace(old, new)

    publish(0, [MODEL], 1)
    monkeypatch.setattr(os, "replace", refuse)
    older = tmp_path / "step-00000001"
    assert publish(0, [MODEL], 2) == (True, [f"warning: {older}: Permission denied: older checkpoints could not be removed"])
    assert (tmp_path / "latest").read_text() == "step-00000002\n"


def test_records_that_are_dropped_are_returned_and_numbers_that_are_none_are_null(tmp_path):
    lines = JsonLines(tmp_path / "metrics.jsonl", dict)
    for step, loss in ((1, 2.0), (2, float("nan")), (3, float("inf"))):
        lines.append({"step": step, "loss": loss})
    assert [record["loss"] for record in lines.read()] == [2.0, None, None]
    assert [record["step"] for record in lines.keep(lambda record: record["step"] < 2)] == [2, 3]
    assert lines.read() == [{"step": 1, "loss": 2.0}]


def test_lines_that_a_full_disk_refuses_are_written_once_there_is_room(tmp_path):
    import resource

    lines = JsonLines(tmp_path / "metrics.jsonl", dict)
    lines.append({"step": 1})
    try:
        for step in (2, 3):
            # The second byte more than there is does not fit: half a line must not stay.
            resource.setrlimit(resource.RLIMIT_FSIZE, (len('{"step": 1}\n') + 2, resource.RLIM_INFINITY))
            lines.append({"step": step})
            assert lines.path.read_text() == '{"step": 1}\n'
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    lines.append({"step": 4})
    assert [record["step"] for record in lines.read()] == [1, 2, 3, 4]


def test_the_newest_is_the_newest_that_is_whole_and_that_is_said(tmp_path, messages):
    checkpoints = Checkpoints(tmp_path, CheckpointingConfig())
    assert checkpoints.newest() is None
    for step in (3, 5, 7):
        tag = tmp_path / f"step-{step:08d}"
        tag.mkdir()
        saved = TrainState(step=step)
        (tag / "progress.json").write_text(json.dumps(asdict(saved)))
        seal(tag)
    assert checkpoints.newest().step == 7 and not messages
    (tmp_path / "step-00000007" / "progress.json").write_text("{")
    assert checkpoints.newest().step == 5
    (line,) = messages
    assert "step-00000007" in line and "step-00000005 is taken" in line
    for step in (3, 5):
        (tmp_path / f"step-{step:08d}" / "progress.json").unlink()
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        checkpoints.newest()


def test_a_flush_writes_what_waits_for_room_and_has_it_on_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_ino))
    lines = JsonLines(tmp_path / "metrics.jsonl", dict)
    lines.append({"step": 1})
    lines._unwritten = b'{"step": 2}\n'
    assert not synced
    lines.flush()
    lines.flush()
    assert [record["step"] for record in lines.read()] == [1, 2]
    assert {*synced} == {lines.path.stat().st_ino}
