"""Which recipes may go on in a run directory, whose checkpoints it takes, and what it makes again."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import GPT2Config

from pipeline.common.errors import UserError
from pipeline.common.files import write_json
from pipeline.common.keyed import DRAWS
from pipeline.recipe import load_recipe
from pipeline.runs.records import read_record
from pipeline.training.directory.checkpoints import TrainState
from pipeline.training.directory.recorded_settings import check_model
from pipeline.training.directory.run_directory import RunDirectory
from tests.pipeline.growth.models import small_model
from tests.pipeline.report.recorded_runs import Made

QUICKSTART = Path(__file__).parents[3] / "launch" / "recipes" / "quickstart.yaml"
DS_CONFIG = {"train_batch_size": 32, "train_micro_batch_size_per_gpu": 8, "zero_optimization": {"stage": 3}}
DATA = {
    "prepared": "data",
    "fingerprint": "f00",
    "weights": {"128": {"text": 1.0}},
    "steps": {"source": 10, "full": 10},
    "draws": DRAWS,
}
SETTINGS = ("recipe.yaml", "ds_config.json", "data.json")


@pytest.fixture
def owned(tmp_path):
    """A run directory that a run was started in."""
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    directory.claim(load_recipe(QUICKSTART, []), DS_CONFIG, DATA)
    return directory


def saved_by(directory: RunDirectory, *overrides: str, ds_config: dict = DS_CONFIG, certificates=()) -> TrainState:
    """Where a checkpoint of that run stands, made with these settings."""
    data = json.loads(directory.data.read_text())
    recipe = load_recipe(QUICKSTART, list(overrides)).model_dump(mode="json")
    run = {"recipe": recipe, "ds_config": ds_config, "data": data, "certificates": list(certificates)}
    return TrainState(len(certificates), 5, run=run)


def check(directory: RunDirectory, saved: TrainState | None, *overrides: str, ds_config: dict = DS_CONFIG) -> list[str]:
    """As another process would."""
    return RunDirectory(directory.path).check(load_recipe(QUICKSTART, list(overrides)), ds_config, saved)


def test_each_run_has_an_id_that_stays(owned, tmp_path):
    first = json.loads(owned.data.read_text())["run"]
    again = RunDirectory(owned.path)
    again.check(load_recipe(QUICKSTART, []), DS_CONFIG, saved_by(owned))
    assert again.claim(load_recipe(QUICKSTART, []), DS_CONFIG, DATA)["run"] == first
    other = RunDirectory(tmp_path / "other")
    other.path.mkdir()
    assert other.claim(load_recipe(QUICKSTART, []), DS_CONFIG, DATA)["run"] != first


@pytest.mark.parametrize(
    "override",
    [
        "guard.rewinds=9",
        "guard.spike=3.0",
        "checkpointing.every=7",
        "checkpointing.asynchronous=true",
        "flops.peak_tflops=3",
        "run_dir=elsewhere",
        "stages.full.steps=100000",
    ],
)
def test_what_changes_no_step_may_change_and_a_stage_become_longer(owned, override):
    assert check(owned, None, override) == []
    assert check(owned, saved_by(owned), override) == []


CHANGES = ["seed=3", "flops.causal_scores=half", "optimizer.lr=0.5", "evaluation.windows=3"]


@pytest.mark.parametrize("before", [(), ("source.steps=null",)], ids=["trained", "untrained"])
@pytest.mark.parametrize("step", [None, 5, 15])
def test_a_source_that_was_trained_is_not_left_untrained_nor_the_other_way_round(owned, before, step):
    after = () if before else ("source.steps=null",)
    owned.claim(load_recipe(QUICKSTART, list(before)), DS_CONFIG, DATA)
    saved = None if step is None else replace(saved_by(owned, *before), step=step)
    assert check(owned, saved, *before) == []
    with pytest.raises(UserError, match=r"'source' was (not )?trained .*when the run was started, and now is (not )?trained"):
        check(owned, saved, *after)


def test_a_run_of_a_version_that_wrote_how_new_tokens_rows_are_filled_goes_on(owned):
    owned.claim(load_recipe(QUICKSTART, ["growth.vocabulary=mean"]), DS_CONFIG, DATA)
    assert check(owned, None) == []
    with pytest.raises(UserError, match=r"differs in growth\.vocabulary"):
        check(owned, None, "growth.vocabulary=random")


def test_a_size_that_was_derived_may_be_named_since_as_the_checkpoint_has_it_and_no_other(owned):
    """A later version may derive another one."""
    saved = saved_by(owned, certificates=[{"target": {"intermediate_size": 213, "num_attention_heads": 8}}])
    assert check(owned, saved, "target.intermediate_size=213") == []
    for other in (None, replace(saved, phase=0), saved_by(owned)):
        with pytest.raises(UserError, match=r"differs in target\.intermediate_size"):
            check(owned, other, "target.intermediate_size=213")
    for override in ("target.intermediate_size=224", "target.vocab_size=9999", "target.hidden_size=4096"):
        with pytest.raises(UserError, match=rf"differs in {override.split('=')[0]}"):
            check(owned, saved, override)


@pytest.mark.parametrize(
    ("change", "message", "named"),
    [
        ({"n_inner": 213}, "intermediate_size 213 where recipe and source now give 224", "(target.intermediate_size=213)"),
        ({"n_layer": 2}, "num_hidden_layers 2 where recipe and source now give 3", None),
        ({"n_inner": 213, "n_layer": 2}, "num_hidden_layers 2 where", None),
        ({"vocab_size": 64}, "vocab_size 64 where", "(target.vocab_size=64)"),
        ({"tie_word_embeddings": False}, "tied False where recipe and source now give True", None),
    ],
)
def test_a_checkpoint_of_other_sizes_than_the_run_would_now_train_is_refused(change, message, named):
    made = {"n_embd": 80, "n_head": 4, "n_layer": 3, "n_inner": 224, "vocab_size": 48, "n_positions": 16}
    config, opened = GPT2Config(**made), GPT2Config(**made | change)
    phase = load_recipe(QUICKSTART, ["target={hidden_size: 80, num_hidden_layers: 3}"]).phases[1]
    place = Path("run/checkpoints/step-00000005")
    check_model(SimpleNamespace(config=config, directory=place), config, phase)
    bert = SimpleNamespace(config=small_model("bert").config, directory=place)
    with pytest.raises(UserError, match="class BertForMaskedLM where recipe and source now give GPT2LMHeadModel"):
        check_model(bert, config, phase)
    with pytest.raises(UserError) as refused:
        check_model(SimpleNamespace(config=opened, directory=place), config, phase)
    assert message in str(refused.value) and f"by source.path={place}" in str(refused.value)
    assert ("name in the recipe" in str(refused.value)) == (named is not None) and (named or "") in str(refused.value)


@pytest.mark.parametrize("override", CHANGES)
def test_anything_else_is_refused_by_key(owned, override):
    for saved in (None, saved_by(owned)):
        with pytest.raises(UserError, match=f"the run directory belongs to a recipe that differs in {override.split('=')[0]};"):
            check(owned, saved, override)


DS_CHANGES = [
    {"train_batch_size": 64},
    {"gradient_clipping": 3.0},
    {"bf16": {"enabled": True}},
    {"zero_optimization": {"stage": 3, "zero_quantized_weights": True}},
]


@pytest.mark.parametrize("change", DS_CHANGES)
def test_another_way_of_computing_is_refused_by_key(owned, change):
    key = "zero_quantized_weights" if "zero_optimization" in change else next(iter(change))
    with pytest.raises(UserError, match=rf"ds_config\.json: the run was started with another {key}"):
        check(owned, saved_by(owned), ds_config=DS_CONFIG | change)


MICRO = {"train_micro_batch_size_per_gpu": 2}


@pytest.mark.parametrize(
    ("override", "change", "message"),
    [
        ("train_micro_batch_size_per_gpu=2", MICRO, "train_micro_batch_size_per_gpu 2 (it was 8)"),
        ("activation_checkpointing=true", {}, "activation_checkpointing True (it was False)"),
        ("fused_linear_cross_entropy=true", {}, "fused_linear_cross_entropy True (it was False)"),
        ("make_vocab_size_divisible_by=64", {}, "make_vocab_size_divisible_by 64 (it was 1)"),
        ("compile=true", {}, "compile True (it was False)"),
        ("attn_implementation=sdpa", {}, "attn_implementation 'sdpa' (it was 'eager')"),
        *(
            ("seed=1234", {"zero_optimization": {"stage": stage}}, f"zero_optimization.stage {stage} (it was 3)")
            for stage in (0, 1, 2)
        ),
        (
            "seed=1234",
            {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}, "overlap_comm": True}},
            "zero_optimization.offload_optimizer 'cpu' (it was nothing)",
        ),
    ],
)
def test_what_changes_the_order_of_sums_alone_goes_on_and_is_said(owned, override, change, message):
    (remark,) = check(owned, saved_by(owned), override, ds_config=DS_CONFIG | change)
    assert f"the run continues with {message}: " in remark and "to rounding, not to the bit" in remark
    RunDirectory(owned.path).claim(load_recipe(QUICKSTART, [override]), DS_CONFIG | change, json.loads(owned.data.read_text()))
    # Said where it changes, and not again.
    assert check(owned, saved_by(owned), override, ds_config=DS_CONFIG | change) == []


# --- whose a checkpoint is ------------------------------------------------------------------------


def test_another_runs_checkpoint_is_refused_with_the_way_to_start_from_it(owned):
    other = saved_by(owned)
    other.run["data"]["run"] = "0123456789abcdef"
    with pytest.raises(UserError, match=r"step-00000005: belongs to another run .* by source\.path=.*step-00000005"):
        check(owned, other)


@pytest.mark.parametrize("gone", [("recipe.yaml",), SETTINGS])
@pytest.mark.parametrize("override", CHANGES)
def test_a_checkpoint_of_other_settings_is_refused_though_the_directory_has_forgotten_them(owned, gone, override):
    saved = saved_by(owned)
    for name in gone:
        (owned.path / name).unlink()
    key = override.split("=")[0]
    with pytest.raises(UserError, match=f"the checkpoint belongs to a recipe that differs in {key};.*source.path"):
        check(owned, saved, override)


def test_a_checkpoint_is_believed_before_a_recipe_that_was_put_beside_it(owned):
    """By hand, with what the recipe that is given has too."""
    owned.recipe.write_text(load_recipe(QUICKSTART, ["seed=3"]).to_yaml())
    with pytest.raises(UserError, match="the checkpoint belongs to a recipe that differs in seed;"):
        check(owned, saved_by(owned), "seed=3")
    owned.ds_config.write_text(json.dumps(DS_CONFIG | {"train_batch_size": 8}))
    owned.recipe.write_text(load_recipe(QUICKSTART, []).to_yaml())
    with pytest.raises(UserError, match=r"step-00000005: the run was started with another train_batch_size;"):
        check(owned, saved_by(owned), ds_config=DS_CONFIG | {"train_batch_size": 8})


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("content", [None, "", "{", "[1]", "5", '{"steps": 5, "zero_optimization": []}', "\0"])
def test_settings_that_are_lost_are_those_of_the_checkpoint_and_written_again(owned, name, content):
    saved, path = saved_by(owned), owned.path / name
    before = path.read_text()
    path.unlink() if content is None else path.write_text(content)
    directory = RunDirectory(owned.path)
    (remark,) = directory.check(load_recipe(QUICKSTART, []), DS_CONFIG, saved)
    assert remark.startswith(str(path)) and "it is written again from the checkpoint step-00000005" in remark
    assert directory.recorded_data() == saved.run["data"]
    directory.claim(load_recipe(QUICKSTART, []), DS_CONFIG, DATA)
    assert path.read_text() == before


@pytest.mark.parametrize("name", SETTINGS)
def test_an_older_versions_checkpoint_goes_on_where_the_directory_knows_all_and_not_otherwise(owned, name):
    older = replace(saved_by(owned), run=None)
    (remark,) = check(owned, older)
    assert "step-00000005: made by an older version" in remark
    (owned.path / name).unlink()
    with pytest.raises(UserError, match=rf"{name}: no such file; put it back: .* older version"):
        check(owned, older)


@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json", "lost.jsonl", "eval.jsonl", "model", "rewound.json"])
def test_records_of_nobody_are_not_taken_over(owned, name):
    owned.recipe.unlink()
    assert check(owned, None) == []
    (owned.path / name).touch()
    with pytest.raises(UserError, match=rf"holds a run's {name}, and neither a recipe\.yaml nor a checkpoint says whose"):
        check(owned, None)
    (owned.path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"holds files of no run \(notes\.txt\)|holds a run's"):
        check(owned, None)


@pytest.mark.parametrize("name", ["ds_config.json", "data.json"])
def test_without_a_checkpoint_only_the_recipe_says_whose_a_directory_is(owned, name):
    (owned.path / name).write_text("{")
    (remark,) = check(owned, None)
    assert "no checkpoint depends on it" in remark
    owned.recipe.write_text("{")
    with pytest.raises(UserError, match=r"recipe\.yaml: not readable as YAML.*; put it back, or name another run_dir"):
        check(owned, None)


def test_a_blend_that_was_prepared_anew_with_other_weights_is_refused(owned):
    directory = RunDirectory(owned.path)
    directory.check(load_recipe(QUICKSTART, []), DS_CONFIG, None)
    directory.check_data(DATA)
    with pytest.raises(
        UserError, match=r"the run was started with the weights .*'text': 1\.0.*, and now they are .*'text': 0\.5"
    ):
        directory.check_data(DATA | {"weights": {"128": {"text": 0.5, "wiki": 0.5}}})


# --- records --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["metrics.jsonl", "eval.jsonl", "lost.jsonl", "scores.jsonl"])
@pytest.mark.parametrize("line", ["{", "5", '{"step": "3"}', '{"step": NaN}', "[" * 100_000])
def test_a_damaged_line_is_found_before_anything_is_trained(owned, name, line):
    (owned.path / name).write_text(line + "\n")
    with pytest.raises(UserError, match=rf"{name}: line 1: .*or remove that line"):
        check(owned, saved_by(owned))
    # A last line that was cut short is none.
    (owned.path / name).write_text(line)
    assert check(owned, saved_by(owned)) == []


def test_a_damaged_word_on_rewinds_is_found_before_anything_is_trained(owned):
    owned.rewound.write_text('{"step": 3, "rewinds": "1", "samples": {}}')
    with pytest.raises(UserError, match=r"rewound\.json: rewinds: .*valid integer"):
        check(owned, saved_by(owned))


# --- certificates and summary ---------------------------------------------------------------------


@pytest.fixture
def grown(tmp_path):
    """A finished run that grew twice."""
    return RunDirectory(Made(tmp_path / "run", growths=2).write())


DAMAGES = {
    "missing": lambda path: path.unlink(),
    "truncated": lambda path: os.truncate(path, 100),
    "another value": lambda path: path.write_text(path.read_text().replace("d1g35t", "0ther")),
    "no certificate": lambda path: path.write_text("{}"),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("number", [1, 2])
def test_a_damaged_certificate_is_written_again_where_it_stands_elsewhere_and_else_named(grown, damage, number, messages):
    known = [json.loads(grown.certificate(one).read_text()) for one in (1, 2)]
    path = grown.certificate(number)
    DAMAGES[damage](path)
    assert grown.certified(2, known, "the checkpoint") == known
    (line,) = messages
    assert line.startswith(f"{path}: missing, or changed since the run wrote it; it is written again from the checkpoint")
    assert json.loads(path.read_text()) == known[number - 1]
    if damage != "another value":
        DAMAGES[damage](path)
        with pytest.raises(UserError, match=rf"{path.name}: .*put it back"):
            grown.certified(2, [], "")


def test_the_certificate_of_a_growth_that_is_done_again_goes(grown):
    known = json.loads(grown.certificate(1).read_text())
    grown.certificate(2).write_text("{")
    assert grown.certified(1, [], "") == [known]
    assert not grown.certificate(2).exists()


def summary_of(directory: RunDirectory, saved: TrainState | None):
    recipe = Made(directory.path).recipe
    written = read_record(directory.summary, dict)
    lengths = {"source": ["steps", 20], "submodels": ["steps", 30], "full": ["steps", 30]}
    if isinstance(written, dict) and "lengths" in written:
        write_json(directory.summary, written | {"lengths": lengths})
    return directory.finished_summary(recipe, saved)


def test_a_summary_is_that_of_its_run_whole_or_made_again(tmp_path, messages):
    directory = RunDirectory(Made(tmp_path / "run").write())
    saved = TrainState(1, 80)
    found = summary_of(directory, None)
    assert found["steps"] == 80 and messages == []
    directory._id = "this"
    write_json(directory.summary, found | {"run": "other"})
    assert summary_of(directory, saved) is None and "belongs to another run" in messages[0]
    for content in ('{"steps": 80}', "{", "null"):
        directory.summary.write_text(content)
        assert directory.finished_summary(Made(directory.path).recipe, saved) is None
        assert "made again from the last checkpoint" in messages[-1]
        with pytest.raises(UserError, match=r"summary\.json: .*; there is no checkpoint to make it again from"):
            directory.finished_summary(Made(directory.path).recipe, None)


def test_a_directory_that_is_moved_is_the_same_run(owned, tmp_path):
    saved = saved_by(owned)
    shutil.move(owned.path, tmp_path / "moved")
    assert check(RunDirectory(tmp_path / "moved"), saved, f"run_dir={tmp_path / 'moved'}") == []


@pytest.fixture
def claimed(tmp_path):
    """A run directory as a run has it before its first step."""
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    directory.lock.touch()
    directory.check(load_recipe(QUICKSTART, []), DS_CONFIG, None)
    directory.claim(load_recipe(QUICKSTART, []), DS_CONFIG, DATA)
    return directory


def test_a_refused_run_leaves_nothing_of_what_it_wrote_before_its_first_step(claimed):
    for path in (claimed.metrics, claimed.evaluations, claimed.checked):
        path.touch()
    claimed.abandon()
    assert not claimed.path.exists()


@pytest.mark.parametrize(
    "kept",
    ["metrics.jsonl", "eval.jsonl", "lost.jsonl", "certificates/00.json", "checkpoints/step-00000001/x", "tensorboard/x", "x"],
)
def test_a_refused_run_leaves_all_where_there_is_more_than_that(claimed, kept):
    path = claimed.path / kept
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("something")
    there = sorted(claimed.path.rglob("*"))
    claimed.abandon()
    assert sorted(claimed.path.rglob("*")) == there


def test_a_run_that_was_begun_before_is_not_removed_when_another_is_refused(owned):
    owned.lock.touch()
    again = RunDirectory(owned.path)
    with pytest.raises(UserError, match="differs in seed"):
        again.check(load_recipe(QUICKSTART, ["seed=7"]), DS_CONFIG, None)
    there = sorted(owned.path.rglob("*"))
    again.abandon()
    assert sorted(owned.path.rglob("*")) == there


@pytest.mark.parametrize(
    ("draws", "phase", "said"),
    [
        (None, 0, True),
        ("another generator", 0, True),
        # What is grown already is in the checkpoint.
        (None, 1, False),
        (DRAWS, 0, False),
    ],
)
def test_a_run_that_was_begun_with_other_random_draws_says_so_where_it_is_still_to_grow(owned, draws, phase, said):
    owned.claim(
        load_recipe(QUICKSTART, []), DS_CONFIG, {key: value for key, value in (DATA | {"draws": draws}).items() if value}
    )
    remarks = check(owned, replace(saved_by(owned), phase=phase))
    assert [("draws other random values" in remark, "grown" in remark) for remark in remarks] == [(True, True)] * said
    # From the beginning everything is drawn anew.
    assert check(owned, None) == []
