"""Checkpoints of every ZeRO stage as they are read: any number of ranks, and what is damaged."""

import os
import pickle
import shutil

import pytest
import torch
from deepspeed.utils import safe_get_full_optimizer_state
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

from pipeline.common.errors import UserError
from pipeline.families import ActiveLayers
from pipeline.growth.integrity import FILES
from pipeline.growth.sources import open_source
from pipeline.growth.zero_checkpoint import open_zero_checkpoint
from pipeline.recipe import CheckpointingConfig
from pipeline.training.directory.checkpoints import Checkpoints
from tests.damages import flip
from tests.distributed.engines import full_weight
from tests.distributed.test_freezing import LAYERS, learns
from tests.distributed.walks import FEW, FULL, LAYOUTS, READ_DEPTHS, walk
from tests.messages import collected
from tests.ranks import run_ranks

# --- reading --------------------------------------------------------------------------------------


def write_and_gather(folder, layouts) -> dict:
    """Write a checkpoint of each layout; return what DeepSpeed itself gathers of the weights and moments."""
    gathered = {}
    for layout in layouts:
        _, trained = walk(folder / layout, layout, 0, 4, False, READ_DEPTHS)
        trained.learn(ActiveLayers.whole(LAYERS))
        if hasattr(trained.engine.optimizer, "_hp_optimizer_states_linked"):
            # DeepSpeed links the moments after the first step, and finds none of what began later.
            trained.engine.optimizer._hp_optimizer_states_linked = False
            trained.engine.optimizer._lazy_init_hp_params_optimizer_state()
        gathered[layout] = {
            name: {
                "weight": full_weight(parameter),
                **{key: moment(trained, parameter, key) for key in ("exp_avg", "exp_avg_sq")},
            }
            for name, parameter in trained.module.named_parameters()
        }
        trained.close()
    return gathered


def moment(trained, parameter, key):
    """Gathered by DeepSpeed, or without ZeRO just there."""
    if parameter in trained.optimizer.state:
        return trained.optimizer.state[parameter][key].clone()
    return safe_get_full_optimizer_state(parameter, key).cpu().reshape(getattr(parameter, "ds_shape", parameter.shape))


def write(folder, layouts):
    for layout in layouts:
        (folder / layout).mkdir()
    return folder, run_ranks(write_and_gather, 3, folder, layouts)[0]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A checkpoint of a few layouts, written by three ranks, and what DeepSpeed gathered of it."""
    return write(tmp_path_factory.mktemp("written"), FEW)


@pytest.fixture(scope="module")
def written_too(tmp_path_factory):
    """The same of the other layouts."""
    return write(tmp_path_factory.mktemp("written_too"), [layout for layout in LAYOUTS if layout not in FEW])


@pytest.mark.parametrize("layout", [pytest.param(layout, marks=() if layout in FEW else FULL) for layout in LAYOUTS])
def test_what_is_read_is_what_deepspeed_gathers(request, layout):
    folder, gathered = request.getfixturevalue("written" if layout in FEW else "written_too")
    source = open_source(folder / layout)
    assert source.directory == folder / layout / "step-00000004"
    assert source.config.model_type == "gpt2" and source.state.keys() == gathered[layout].keys()
    merged = {}
    if layout not in ("zero0", "zero1-bf16-summed-in-fp32"):
        # DeepSpeed's own tool reads neither of these two.
        merged = get_fp32_state_dict_from_zero_checkpoint(folder / layout, "step-00000004")
    for name, expected in gathered[layout].items():
        rows, kept = source.state[name], source.optimizer[name]
        assert torch.equal(rows.rows(0, rows.shape[0]), expected["weight"]), name
        assert torch.equal(rows.rows(1, rows.shape[0] - 1), expected["weight"][1:-1]), name
        for key in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(kept[key].rows(2, rows.shape[0]), expected[key][2:]), (name, key)
        assert kept["step"] == sum(depth is None or learns(name, "gpt2", True, depth) for depth in READ_DEPTHS), name
        if merged:
            assert torch.equal(merged[name], expected["weight"]), name


# --- refusing -------------------------------------------------------------------------------------


@pytest.fixture
def copied(written, tmp_path):
    """A checkpoint of three ranks' that may be spoilt, without the digests that would tell at once."""
    tag = shutil.copytree(written[0] / "zero3" / "step-00000004", tmp_path / "tag")
    (tag / FILES).unlink()
    return tag


OPTIMIZER_FILE = "zero_pp_rank_1_mp_rank_00_optim_states.pt"


def refusal(directory) -> str:
    with pytest.raises(UserError) as refused:
        open_zero_checkpoint(directory, untrusted=True)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("file", [OPTIMIZER_FILE, "zero_pp_rank_0_mp_rank_00_model_states.pt"])
def test_a_truncated_file_is_refused_by_name(copied, file, share):
    os.truncate(copied / file, int((copied / file).stat().st_size * share))
    assert file in refusal(copied)


def test_a_missing_ranks_file_is_refused_by_name(copied):
    (copied / OPTIMIZER_FILE).unlink()
    assert OPTIMIZER_FILE in refusal(copied)


def test_a_checkpoint_of_another_model_is_refused(copied):
    config = (copied / "config.json").read_text()
    (copied / "config.json").write_text(config.replace('"n_inner": 128', '"n_inner": 256'))
    assert "transformer.h.0.mlp.c_fc.weight" in refusal(copied)
    (copied / "config.json").unlink()
    assert "config.json" in refusal(copied)


def test_an_optimizer_file_of_another_checkpoint_is_refused_by_name(written, copied):
    shutil.copyfile(written[0] / "zero1" / "step-00000004" / OPTIMIZER_FILE, copied / OPTIMIZER_FILE)
    assert f"{OPTIMIZER_FILE}: of another checkpoint" in refusal(copied)
    saved = torch.load(written[0] / "zero3" / "step-00000004" / OPTIMIZER_FILE, weights_only=False)
    saved["optimizer_state_dict"]["partition_count"] = 2
    torch.save(saved, copied / OPTIMIZER_FILE)
    assert f"{OPTIMIZER_FILE}: of another checkpoint" in refusal(copied)


class Harmful:
    """What a foreign pickle may be."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("content", ["bare", "within"])
def test_code_in_a_file_is_refused_and_not_run(copied, tmp_path, content, zipped):
    harmful = Harmful(tmp_path / "mark")
    path = copied / OPTIMIZER_FILE
    if content == "within":
        saved = torch.load(path, weights_only=False)
        harmful = saved | {"ds_version": harmful}
    torch.save(harmful, path, _use_new_zipfile_serialization=zipped)
    assert OPTIMIZER_FILE in refusal(copied)
    assert not (tmp_path / "mark").exists()
    path.write_bytes(pickle.dumps(Harmful(tmp_path / "mark")))
    assert OPTIMIZER_FILE in refusal(copied)
    assert not (tmp_path / "mark").exists()


# --- what is whole --------------------------------------------------------------------------------


def newest(folder):
    with collected() as said:
        try:
            saved = Checkpoints(folder, CheckpointingConfig()).newest_whole()
            return None if saved is None else saved.step, said
        except UserError as error:
            return str(error), said


def flip_at(path, share):
    flip(path, int(share * path.stat().st_size))


DAMAGES = {
    "truncated": lambda tag: os.truncate(tag / OPTIMIZER_FILE, (tag / OPTIMIZER_FILE).stat().st_size - 1),
    "flipped": lambda tag: flip_at(tag / OPTIMIZER_FILE, 0.7),
    "missing": lambda tag: (tag / OPTIMIZER_FILE).unlink(),
    "of the list": lambda tag: flip_at(tag / FILES, 0.4),
    "list missing": lambda tag: (tag / FILES).unlink(),
    "added": lambda tag: shutil.copyfile(tag / OPTIMIZER_FILE, tag / f"bf16_{OPTIMIZER_FILE}"),
    "of the words": lambda tag: flip_at(tag / "progress.json", 0.5),
}


def newest_of_each(folders):
    return {name: newest(folder) for name, folder in folders.items()}


def test_the_newest_whole_checkpoint_is_taken_and_the_damaged_file_named_at_any_number_of_ranks(written, tmp_path):
    whole = written[0] / "zero3" / "step-00000004"
    folders = {}
    for name, damage in DAMAGES.items():
        folders[name] = tmp_path / name
        for step in (2, 4):
            shutil.copytree(whole, folders[name] / f"step-0000000{step}")
        # Left by a kill: no checkpoint.
        shutil.copytree(whole, folders[name] / "step-00000006.partial")
        (folders[name] / "latest").write_text("step-00000004\n")
        damage(folders[name] / "step-00000004")
    folders["all"] = shutil.copytree(folders["flipped"], tmp_path / "all")
    DAMAGES["truncated"](folders["all"] / "step-00000002")
    folders["gone"] = shutil.copytree(folders["flipped"], tmp_path / "gone")
    shutil.rmtree(folders["gone"] / "step-00000004")
    folders["none"] = tmp_path / "none"
    folders["none"].mkdir()
    files = {"of the list": FILES, "list missing": FILES, "added": f"bf16_{OPTIMIZER_FILE}", "of the words": "progress.json"}
    for found in run_ranks(newest_of_each, 2, folders):
        for name in DAMAGES:
            # A copy of step 4's words, under another name.
            assert found[name][0] == 4, name
            (line,) = found[name][1]
            file = tmp_path / name / "step-00000004" / files.get(name, OPTIMIZER_FILE)
            assert f"({file}: " in line and "step-00000002 is taken" in line, name
        assert (
            f"step-00000004/{OPTIMIZER_FILE}: its bytes" in found["all"][0]
            and "every checkpoint is damaged" in found["all"][0]
            and f"step-00000002/{OPTIMIZER_FILE}: " in found["all"][0]
        )
        assert "step-00000004" in found["gone"][1][0]
        assert found["none"] == (None, [])


def test_a_checkpoint_without_digests_is_refused_unless_it_is_called_foreign(written, tmp_path):
    shutil.copytree(written[0] / "zero3", tmp_path / "checkpoints")
    tag = tmp_path / "checkpoints" / "step-00000004"
    assert open_source(tmp_path / "checkpoints").state
    DAMAGES["flipped"](tag)
    for foreign in (False, True):
        with pytest.raises(
            UserError, match=f"{OPTIMIZER_FILE}: its bytes are not those that were written; the checkpoint is damaged"
        ):
            open_source(tmp_path / "checkpoints", untrusted=foreign)
    (tag / FILES).unlink()
    with pytest.raises(UserError, match=r"has no files\.json, .* source\.foreign=true"):
        open_source(tmp_path / "checkpoints")
    assert open_source(tmp_path / "checkpoints", untrusted=True).state
