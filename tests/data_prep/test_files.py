import os
import resource

import pytest

from data_prep.errors import UserError
from data_prep.files import locked, whole_directory, write_atomically


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
    with pytest.raises(KeyError), whole_directory(tmp_path / "shards") as aside:
        (aside / "part").touch()
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with whole_directory(tmp_path / "shards") as aside:
        (aside / "part").touch()
        assert not (tmp_path / "shards").exists()
    assert [entry.name for entry in (tmp_path / "shards").iterdir()] == ["part"]


def test_a_lock_that_is_held_names_its_holder_and_frees_when_the_block_ends(tmp_path):
    path = tmp_path / ".lock"
    refused = pytest.raises(UserError, match=f"process {os.getpid()} is writing")
    with locked(path, wait=False), refused, locked(path, wait=False):
        pass
    with locked(path, wait=False):
        assert path.read_text() == str(os.getpid())
