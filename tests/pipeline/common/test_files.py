import fcntl
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.common.errors import UserError
from pipeline.common.files import locked, whole_directory, write_atomically


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "latest"
    write_atomically(path, "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError):
            write_atomically(path, "new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [entry.name for entry in tmp_path.iterdir()] == ["latest"]
    assert path.read_text() == "old"


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(KeyError), whole_directory(tmp_path / "shards") as temporary:
        (temporary / "part").touch()
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with whole_directory(tmp_path / "shards") as temporary:
        (temporary / "part").touch()
        assert not (tmp_path / "shards").exists()
    assert [entry.name for entry in (tmp_path / "shards").iterdir()] == ["part"]


def test_two_writers_of_one_directory_do_not_meet(tmp_path):
    path = tmp_path / "grown"
    with whole_directory(path) as temporary:
        (temporary / "first").touch()
        with pytest.raises(UserError, match=f"process {os.getpid()} on .* is writing"), whole_directory(path):
            pass
        assert (temporary / "first").exists() and not path.exists()
    assert [entry.name for entry in path.iterdir()] == ["first"]


def test_a_folder_of_someone_elses_is_left_alone(tmp_path):
    mine = tmp_path / "grown.partial"
    mine.mkdir()
    (mine / "note").write_text("mine")
    with pytest.raises(UserError, match=r"grown\.partial: this folder was not made here"), whole_directory(tmp_path / "grown"):
        pass
    assert (mine / "note").read_text() == "mine" and [entry.name for entry in tmp_path.iterdir()] == ["grown.partial"]


def test_what_a_killed_writer_left_is_cleared(tmp_path):
    killed = (
        "import os, signal, sys; from pathlib import Path; from pipeline.common.files import whole_directory\n"
        "with whole_directory(Path(sys.argv[1])) as temporary:\n"
        "    (temporary / 'old').touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "grown"
    subprocess.run([sys.executable, "-c", killed, str(path)], check=False)
    assert [entry.name for entry in tmp_path.iterdir()] == ["grown.partial"]
    with whole_directory(path) as temporary:
        (temporary / "new").touch()
    assert [entry.name for entry in tmp_path.iterdir()] == ["grown"]
    assert [entry.name for entry in path.iterdir()] == ["new"]


@pytest.mark.parametrize("name", [".", "../here"])
def test_the_current_directory_can_be_named(tmp_path, monkeypatch, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with whole_directory(Path(name)) as temporary:
        (temporary / "part").touch()
    assert (tmp_path / "here" / "part").exists() and len(list(tmp_path.iterdir())) == 1


def test_a_lock_whose_last_holder_removed_it_is_held_by_one_alone(tmp_path, monkeypatch):
    """As in a race: this process opens the file that the other then removes."""
    path = tmp_path / ".lock"
    real = fcntl.flock

    def removed_meanwhile(file, how):
        monkeypatch.setattr(fcntl, "flock", real)
        path.unlink()
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    with locked(path, wait=False), pytest.raises(UserError), locked(path, wait=False):
        pass


def test_a_lock_that_is_held_names_its_holder_and_frees_when_the_block_ends(tmp_path):
    path = tmp_path / ".lock"
    refused = pytest.raises(UserError, match=f"process {os.getpid()} on .* is writing")
    with locked(path, wait=False), refused, locked(path, wait=False):
        pass
    with locked(path, wait=False):
        assert path.read_text() == f"{os.getpid()} on {socket.gethostname()}"
