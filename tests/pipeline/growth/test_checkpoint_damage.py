"""Whatever may lie in the place of a checkpoint's file: a sentence that names it, and nothing that waits or hangs."""

import shutil

import pytest

from pipeline.common.errors import UserError
from pipeline.growth.huggingface import open_huggingface
from pipeline.growth.sources import open_source, preview_source
from pipeline.growth.zero_files import TAG, write_zero3
from tests.damages import IN_PLACE
from tests.pipeline.growth.models import small_model

OURS = {
    "latest": "latest",
    "model": f"{TAG}/zero_pp_rank_0_mp_rank_00_model_states.pt",
    "second model": f"{TAG}/zero_pp_rank_1_mp_rank_00_model_states.pt",
    "optimizer": f"{TAG}/zero_pp_rank_0_mp_rank_00_optim_states.pt",
    "second optimizer": f"{TAG}/zero_pp_rank_1_mp_rank_00_optim_states.pt",
    "config": f"{TAG}/config.json",
    "progress": f"{TAG}/progress.json",
    "digests": f"{TAG}/files.json",
}
THEIRS = {name: path for name, path in OURS.items() if name not in ("second model", "config", "progress", "digests")}
THEIRS["config"] = "config.json"
"""As the Trainer has them; of ZeRO-3's model files the first is read, unless something was not trained."""


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours")
    small_model("gpt2", layers=1).float().save_pretrained(folder / "model")
    source = open_huggingface(folder / "model")
    (folder / "checkpoints").mkdir()
    write_zero3(folder / "checkpoints", source.config, source.state, 2)
    return folder / "checkpoints"


def as_theirs(directory) -> None:
    """Make our files a checkpoint of the Trainer's."""
    (directory / TAG / "config.json").rename(directory / "config.json")
    for name in ("progress.json", "files.json"):
        (directory / TAG / name).unlink()


def refused(open_, path) -> str:
    with pytest.raises(UserError) as error:
        open_(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("damage", IN_PLACE)
@pytest.mark.parametrize(
    ("theirs", "file"),
    [*((False, file) for file in OURS.values()), *((True, file) for file in THEIRS.values())],
)
def test_it_is_one_sentence_that_names_the_file(ours, tmp_path, theirs, file, damage):
    shutil.copytree(ours, tmp_path / "copy")
    if theirs:
        as_theirs(tmp_path / "copy")
    assert open_source(tmp_path / "copy").state
    IN_PLACE[damage](tmp_path / "copy" / file)
    for open_ in (open_source, preview_source):
        assert str(tmp_path / "copy" / file) in refused(open_, tmp_path / "copy")


@pytest.mark.parametrize("file", ["progress", "digests"])
@pytest.mark.parametrize("damage", IN_PLACE)
def test_calling_it_foreign_hides_no_damage(ours, tmp_path, file, damage):
    shutil.copytree(ours, tmp_path / "copy")
    path = tmp_path / "copy" / OURS[file]
    if file == "progress":
        (tmp_path / "copy" / OURS["digests"]).unlink()
    IN_PLACE[damage](path)
    assert str(path) in refused(lambda place: open_source(place, untrusted=True), tmp_path / "copy")


@pytest.mark.parametrize("content", ["", " \n", ".", "..", f"../checkpoints/{TAG}", "/etc", "a\0b", "n" * 300, "gone"])
def test_latest_that_names_no_checkpoint_is_named(ours, tmp_path, content):
    shutil.copytree(ours, tmp_path / "copy")
    (tmp_path / "copy" / "latest").write_text(content)
    assert f"{tmp_path}/copy/latest: " in refused(open_source, tmp_path / "copy")
