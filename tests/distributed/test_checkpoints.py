"""Checkpoints of every ZeRO stage, read at any world size, and gone on from at any other."""

import json
import math
import os
import pickle
import re
import resource
import shutil
import threading
import time

import pytest
import torch
from deepspeed.utils import safe_get_full_optimizer_state
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

from pipeline.common.errors import UserError
from pipeline.deepspeed.loss_scale import restore_counters_and_scale
from pipeline.families import FAMILIES, ActiveLayers
from pipeline.growth.added_steps import ADDED_STEPS_LEFT
from pipeline.growth.initialization import initialized
from pipeline.growth.integrity import FILES
from pipeline.growth.sources import open_source
from pipeline.growth.zero_checkpoint import open_zero_checkpoint
from pipeline.growth.zero_sink import SCALARS
from pipeline.recipe import CheckpointingConfig
from pipeline.recipe.growth import AddedConfig
from pipeline.training import distributed
from pipeline.training.directory.checkpoints import CheckpointMetadata, Checkpoints, _Writer
from pipeline.training.engine import build
from pipeline.training.loop.running import running
from pipeline.training.losses import summed_loss
from tests.distributed.engines import engine_config, full_weight
from tests.distributed.test_freezing import GROUPS, LAYERS, LENGTH, OPTIMIZER, PER_BLOCK, VOCAB, learns, model_config
from tests.messages import collected
from tests.ranks import run_ranks

FAMILY = FAMILIES["gpt2"]
FULL = pytest.mark.full
BATCH = 6

DEPTHS = [2, 4, None, 2, 2, None, 4, None]
"""Two steps of each of four walks: the groups' step counts differ all along, and some begin late."""
READ_DEPTHS = [2, 4, None, 2]
ADDED = AddedConfig(warmup_steps=3, lr_ratio=2.0, decay_steps=2)
"""Over within the walk for some of the layers that were added, and not for others."""

OFFLOAD = {"device": "cpu", "pin_memory": False}
LAYOUTS = {
    "zero0": {"stage": 0},
    "zero1": {"stage": 1},
    "zero2": {"stage": 2},
    "zero3": {"stage": 3},
    "zero1-bf16": {"stage": 1},
    "zero1-bf16-summed-in-fp32": {"stage": 1},
    "zero2-bf16": {"stage": 2},
    # Several masters to a group.
    "zero3-bf16": {"stage": 3, "sub_group_size": 3000},
    "zero2-offload": {"stage": 2, "offload_optimizer": OFFLOAD},
    "zero3-offload": {"stage": 3, "offload_optimizer": OFFLOAD, "offload_param": OFFLOAD},
}
FEW = ["zero1", "zero3"]
"""The layouts that `make test` reads; `make test-full` reads all."""


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(13)
    draw = torch.randint(0, VOCAB, (len(DEPTHS), 2, BATCH, LENGTH), generator=generator)
    return [(inputs, labels) for inputs, labels in draw]


def ds_config(layout: str, accumulation: int) -> dict:
    dtypes = {"grad_accum_dtype": "fp32" if "summed" in layout else None}
    others = {"gradient_clipping": OPTIMIZER.gradient_clipping, "data_types": dtypes}
    return engine_config(LAYOUTS[layout], BATCH, bf16="bf16" in layout, accumulation=accumulation, **others)


class Filled:
    """A tensor whose first rows hold one value and whose others another."""

    def __init__(self, shape, first, other):
        self.shape, self._first, self._other = shape, first, other

    def rows(self, start, stop):
        old = torch.arange(start, stop) < self.shape[0] // 2
        values = torch.where(old, self._first, self._other)
        return values.reshape(-1, *[1] * (len(self.shape) - 1)).expand(stop - start, *self.shape[1:]).float()


def mixed_state(state) -> dict:
    """What growth may leave: old and new elements in a tensor, others old throughout or new throughout.

    Two layers only have factors, so that some ranks know of them and others do not.
    """
    kept = {}
    for number, (name, rows) in enumerate(state.items()):
        if number % 3 == 0 and (".0." in name or ".3." in name):
            kept[name] = {
                "step": Filled(rows.shape, 7.0, 0.0),
                "exp_avg": Filled(rows.shape, 1e-3, 0.0),
                "exp_avg_sq": Filled(rows.shape, 1e-4, 0.0),
                "lr_factor": Filled(rows.shape, 1.0, 0.5),
                "eps_factor": 2.0,
            }
        elif number % 3 == 1:
            kept[name] = {"step": 7.0, "exp_avg": 1e-3, "exp_avg_sq": 1e-4}
        elif ".1." in name:
            # Of a fresh state: what was added is known, and nothing else.
            kept[name] = {ADDED_STEPS_LEFT: Filled(rows.shape, 0.0, float(ADDED.steps))}
        elif ".2." in name:
            kept[name] = {ADDED_STEPS_LEFT: float(ADDED.steps), "step": 7.0, "exp_avg": 1e-3, "exp_avg_sq": 1e-4}
    return kept


def take_step(trained, depth: int | None, inputs, labels, accumulation: int = 1) -> float:
    """Train the full model, or the top of a sub-model; return the loss over all ranks."""
    active = ActiveLayers.whole(LAYERS) if depth is None else ActiveLayers.top(depth, PER_BLOCK)
    share = BATCH // distributed.world_size() // accumulation
    trained.learn(active)
    total = 0.0
    for number in range(accumulation):
        begin = (distributed.rank() * accumulation + number) * share
        part = slice(begin, begin + share)
        with running(trained.module, FAMILY, active):
            loss = summed_loss(trained.logits(inputs[part]).tokens, labels[part])
        trained.engine.backward(loss * (distributed.world_size() * accumulation / (BATCH * LENGTH)))
        trained.engine.step()
        total += loss.item()
    return distributed.total(total)[0] / (BATCH * LENGTH)


def walk(folder, layout: str, begin: int, end: int, mixed: bool, depths=DEPTHS, accumulation: int = 1):
    """Go on from the newest checkpoint in `folder`, or begin; return the losses and the trained model."""
    checkpoints = Checkpoints(folder, CheckpointingConfig(keep=9))
    saved = checkpoints.newest_whole()
    config = model_config("gpt2", True)
    if saved is None:
        state = initialized(FAMILY, config, 5)
        kept = mixed_state(state) if mixed else None
    else:
        source = checkpoints.open(saved)
        state, kept = source.state, source.optimizer
    trained = build(FAMILY, config, state, ds_config(layout, accumulation), OPTIMIZER, GROUPS, "sdpa", kept)
    trained.optimizer.added = ADDED
    if saved is not None:
        restore_counters_and_scale(trained.engine, saved.counters, saved.loss_scale)
    assert trained.engine.global_steps == begin
    steps = list(zip(depths, batches(), strict=False))[begin:end]
    losses = [take_step(trained, depth, inputs, labels, accumulation) for depth, (inputs, labels) in steps]
    checkpoints.save(trained, CheckpointMetadata(1, end, {}, 0, 0.0, {}), must=True)
    return losses, trained


def close(walked):
    losses, trained = walked
    trained.close()
    return losses


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
    shutil.copytree(written[0] / "zero3" / "step-00000004", tmp_path / "tag")
    (tmp_path / "tag" / FILES).unlink()
    return tmp_path / "tag"


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


# --- going on -------------------------------------------------------------------------------------

STEPPED = [(f"zero{stage}", False) for stage in range(4)] + [("zero2", True), ("zero3", True)]


def walk_all(folder, begin, end, cases):
    return {case: close(walk(folder / f"{case[0]}-{case[1]}", case[0], begin, end, case[1])) for case in cases}


def folders(root, cases):
    for layout, mixed in cases:
        (root / f"{layout}-{mixed}").mkdir(parents=True)
    return root


def set_out(whole, walked, cases):
    """The uninterrupted run and the walk's first part, in one process."""
    return walk_all(whole, 0, len(DEPTHS), cases), walk_all(walked, 0, 2, cases)


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param([("zero2", False), ("zero3", True)], id="few"),
        pytest.param([case for case in STEPPED if case not in (("zero2", False), ("zero3", True))], id="others", marks=FULL),
    ],
)
def test_a_walk_over_one_two_three_and_one_ranks_is_the_uninterrupted_run(tmp_path, cases):
    walked = folders(tmp_path / "walked", cases)
    ((whole, losses),) = run_ranks(set_out, 1, folders(tmp_path / "whole", cases), walked, cases, timeout=280)
    for begin, ranks in ((2, 2), (4, 3), (6, 1)):
        results = run_ranks(walk_all, ranks, walked, begin, begin + 2, cases, timeout=280)
        for case in cases:
            losses[case] += results[0][case]
    for layout, mixed in cases:
        assert math.isfinite(whole[layout, mixed][-1])
        gap = max(abs(a / b - 1) for a, b in zip(losses[layout, mixed], whole[layout, mixed], strict=True))
        print(f"{layout} {'mixed ages' if mixed else 'one age':<11} loss within {gap:.1e} of the uninterrupted run's")
        # fp32 sums in another order; a moment or step count lost shows as 1e-3.
        assert gap < 1e-6, (layout, mixed)
        ours, theirs = (open_source(folder / f"{layout}-{mixed}") for folder in (walked, tmp_path / "whole"))
        assert any("lr_factor" in kept for kept in theirs.optimizer.values()) == mixed
        for name, kept in theirs.optimizer.items():
            assert kept.keys() == ours.optimizer[name].keys()
            for key, value in kept.items():
                other = ours.optimizer[name][key]
                if isinstance(value, float):
                    assert other == value, (name, key)
                elif key in SCALARS:
                    assert torch.equal(other.rows(0, other.shape[0]), value.rows(0, other.shape[0])), (name, key)


def stop_and_go_on(root, cases):
    whole = walk_all(root / "whole", 0, 8, cases)
    # After one step half of the groups have never moved.
    first, second = walk_all(root / "stopped", 0, 1, cases), walk_all(root / "stopped", 1, 8, cases)
    return whole, {case: first[case] + second[case] for case in cases}


RESUMED = [(layout, False) for layout in LAYOUTS if layout != "zero2"] + [("zero2", True), ("zero3", True)]


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param([("zero1", False), ("zero3", True)], id="few"),
        pytest.param([case for case in RESUMED if case not in (("zero1", False), ("zero3", True))], id="others", marks=FULL),
    ],
)
def test_at_the_same_ranks_the_losses_are_the_uninterrupted_runs_to_the_bit(tmp_path, cases):
    for name in ("whole", "stopped"):
        folders(tmp_path / name, cases)
    for whole, stopped in run_ranks(stop_and_go_on, 3, tmp_path, cases, timeout=400):
        assert stopped == whole


SWITCHED = [
    ("zero3", 1),
    ("zero0", 3),
    ("zero2", 1),
    ("zero1", 3),
    ("zero3-offload", 1),
    ("zero0", 1),
    ("zero2-offload", 3),
    ("zero3", 3),
]
"""For each step a layout and an accumulation: from each ZeRO stage to another, where groups have steps of their own."""


def switch(root):
    whole = close(walk(root / "whole", "zero2", 0, len(DEPTHS), True))
    return whole, [
        loss
        for step, (layout, accumulation) in enumerate(SWITCHED)
        for loss in close(walk(root / "switched", layout, step, step + 1, True, accumulation=accumulation))
    ]


def test_another_zero_stage_and_micro_batch_at_every_step_give_the_uninterrupted_runs_losses(tmp_path):
    for name in ("whole", "switched"):
        (tmp_path / name).mkdir()
    (whole, switched), _ = run_ranks(switch, 2, tmp_path, timeout=280)
    gap = max(abs(a / b - 1) for a, b in zip(switched, whole, strict=True))
    print(f"losses within {gap:.1e} of the uninterrupted run's")
    # fp32 sums in another order; a moment or step count lost shows as 1e-3.
    assert gap < 1e-6


# --- writing --------------------------------------------------------------------------------------


def save_within(folder, layout, asynchronous):
    """Take three steps and save; in the background nothing is written before one more step is taken."""
    config = model_config("gpt2", True)
    trained = build(FAMILY, config, initialized(FAMILY, config, 5), ds_config(layout, 1), OPTIMIZER, GROUPS, "sdpa")
    checkpoints = Checkpoints(folder, CheckpointingConfig(asynchronous=asynchronous))
    gate, write = threading.Event(), _Writer.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Writer, "write", lambda writer: (gate.wait(60), write(writer)))
        for inputs, labels in batches()[:3]:
            take_step(trained, None, inputs, labels)
        assert checkpoints.save(trained, CheckpointMetadata(1, 3, {}, 0, 0.0, {}), must=False)
        take_step(trained, None, *batches()[3])
        assert (checkpoints.last is None) == asynchronous and not checkpoints.written
        assert (folder / "step-00000003").exists() != asynchronous and (folder / "latest").exists() != asynchronous
        gate.set()
        while asynchronous and not checkpoints.written:
            time.sleep(0.01)
    assert checkpoints.finish() and checkpoints.last.step == 3 and not checkpoints.written
    trained.close()


@pytest.mark.parametrize("layout", [pytest.param(layout, marks=() if layout == "zero3" else FULL) for layout in LAYOUTS])
def test_a_checkpoint_written_while_training_goes_on_is_that_of_the_moment_to_the_byte(tmp_path, layout):
    for name in ("at_once", "behind"):
        (tmp_path / name).mkdir()
        # Processes of their own: DeepSpeed numbers the parameters of a process through, and writes their numbers.
        run_ranks(save_within, 2, tmp_path / name, layout, name == "behind")
    at_once, behind = (json.loads((tmp_path / name / "step-00000003" / FILES).read_text()) for name in ("at_once", "behind"))
    assert any(name.endswith("_states.pt") for name in at_once["files"])
    assert at_once == behind


def telling(work, *arguments):
    """Return what a rank says within some work, and what that returns."""
    with collected() as said:
        returned = work(*arguments)
    return said, returned


def save_where_there_is_no_room(folder):
    """Save once with room, once where rank 1 has none, once again with room; return what was there."""
    config = model_config("gpt2", True)
    trained = build(FAMILY, config, initialized(FAMILY, config, 5), ds_config("zero3", 1), OPTIMIZER, GROUPS, "sdpa")
    listed = []
    for asynchronous in (False, True):
        checkpoints = Checkpoints(folder, CheckpointingConfig(keep=1, asynchronous=asynchronous))
        for step, room in ((1, True), (2, False), (3, True)):
            take_step(trained, None, *batches()[step])
            if not room and distributed.rank() == 1:
                # Writing past the limit fails as on a full disk, in the middle of a file.
                resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
            begun = checkpoints.save(trained, CheckpointMetadata(1, step, {}, 0, 0.0, {}), must=False)
            assert begun == (room or asynchronous)
            assert checkpoints.finish() == (room or not asynchronous)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            distributed.total(0)
            listed.append(sorted(path.name for path in folder.iterdir()))
            distributed.total(0)
        if distributed.rank() == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
        with pytest.raises(UserError, match=r"zero_pp_rank_1.*File too large: the checkpoint could not be written; make room"):
            checkpoints.save(trained, CheckpointMetadata(1, 4, {}, 0, 0.0, {}), must=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert Checkpoints(folder, CheckpointingConfig()).newest_whole().step == 3
        shutil.rmtree(folder, ignore_errors=True)
        distributed.total(0)
        folder.mkdir(exist_ok=True)
    return listed


def test_one_rank_without_room_is_said_by_all_and_the_next_checkpoint_is_tried(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for said, listed in run_ranks(telling, 2, save_where_there_is_no_room, tmp_path / "checkpoints"):
        assert listed == [["latest", f"step-0000000{step}"] for step in (1, 1, 3, 1, 1, 3)]
        assert len(said) == 2
        for line in said:
            assert re.search(
                r"warning: .*zero_pp_rank_1_.*: File too large: the checkpoint of step 2 could not be written", line
            )


# --- what is whole --------------------------------------------------------------------------------


def newest(folder):
    with collected() as said:
        try:
            saved = Checkpoints(folder, CheckpointingConfig()).newest_whole()
            return None if saved is None else saved.step, said
        except UserError as error:
            return str(error), said


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)


DAMAGES = {
    "truncated": lambda tag: os.truncate(tag / OPTIMIZER_FILE, (tag / OPTIMIZER_FILE).stat().st_size - 1),
    "flipped": lambda tag: flip(tag / OPTIMIZER_FILE, 0.7),
    "missing": lambda tag: (tag / OPTIMIZER_FILE).unlink(),
    "of the list": lambda tag: flip(tag / FILES, 0.4),
    "list missing": lambda tag: (tag / FILES).unlink(),
    "added": lambda tag: shutil.copyfile(tag / OPTIMIZER_FILE, tag / f"bf16_{OPTIMIZER_FILE}"),
    "of the words": lambda tag: flip(tag / "progress.json", 0.5),
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
    folders["all"] = tmp_path / "all"
    shutil.copytree(folders["flipped"], folders["all"])
    DAMAGES["truncated"](folders["all"] / "step-00000002")
    folders["gone"] = tmp_path / "gone"
    shutil.copytree(folders["flipped"], folders["gone"])
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
            and "no checkpoint there is whole" in found["all"][0]
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
