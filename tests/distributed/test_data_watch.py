"""Runs of two ranks over data that is damaged after its preparation: all ranks stop, in one sentence, and can go on."""

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import pytest

from data_prep.storage.block_digests import BLOCK
from pipeline.common.errors import UserError
from pipeline.data import checks
from pipeline.data.checks import CheckedFile
from pipeline.recipe import load_recipe
from pipeline.runs import RunPaths
from pipeline.training.ds_config import load_ds_config
from pipeline.training.loop import data_watch
from pipeline.training.loop.data_watch import DataWatch
from pipeline.training.run.pretraining import Run
from pipeline.training.signals import StopRequest
from tests.damages import flip
from tests.end_to_end.conftest import write_recipe
from tests.pipeline.data.test_checks import WIKI, as_earlier_versions_wrote_it, documents
from tests.ranks import run_ranks
from tests.shards import write_prepared

RANKS = 2
PLACE = 2 * BLOCK + 4
"""In a shard of four blocks."""


@pytest.fixture
def recipe(tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    data = write_prepared(tmp_path / "data", {"wiki": ([documents(1, 3)], [documents(2, 1)])})
    (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": {"stage": 1}}))
    sizes = {"family": "gpt2", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return write_recipe(
        tmp_path,
        data,
        source={"model": sizes, "steps": 4},
        target={"hidden_size": 32},
        stages=[{"name": "full", "steps": 24}],
        checkpointing={"every": 50},
        evaluation={"every": 1000, "windows": 2},
    )


def execute(recipe: Path, overrides: Sequence[str], *, sampled=False, idle=False, after=0, rate=1 << 30):
    """Run a recipe; return the sentence that it is refused with on this rank, and the files that this rank compared.

    `sampled` leaves shards out of the first look, as where there is no room for them and other blocks are drawn; `idle` keeps
    the thread from comparing any, as where it has not come to them yet; else it compares `rate` bytes a second, and no shard
    to its end before `after` steps are done.
    """
    compared, compare = [], CheckedFile.compare

    def noted(file, *arguments):
        compared.append(file.path.name)
        deadline = time.monotonic() + 120
        while file.is_shard and len(taken(recipe)) < after and time.monotonic() < deadline:
            time.sleep(0.01)
        compare(file, *arguments)

    with ExitStack() as patches:
        patches.enter_context(patch.object(CheckedFile, "compare", noted))
        patches.enter_context(patch.object(data_watch, "_BYTES_A_SECOND", rate))
        if sampled:
            patches.enter_context(patch.object(checks, "COMPARED_AT_START", 0))
            patches.enter_context(patch.object(CheckedFile, "compare_some", lambda file, key: None))
        if idle:
            patches.enter_context(patch.object(DataWatch, "_run", lambda watch: watch._unguarded_done.set()))
        settings = load_recipe(recipe, overrides)
        try:
            Run(settings, load_ds_config(recipe.with_name("ds.json"), settings, RANKS), StopRequest()).execute()
        except UserError as error:
            return str(error), compared
    return None, compared


def taken(recipe: Path) -> list[str]:
    path = RunPaths(recipe.with_name("run")).metrics
    return path.read_text().splitlines() if path.exists() else []


def run(recipe: Path, *overrides: str, **how):
    """Return the sentence of a run, the same on every rank, and the files that were compared."""
    outcomes = run_ranks(execute_so, RANKS, recipe, overrides, how)
    (sentence,) = {sentence for sentence, _ in outcomes}
    return sentence, [name for _, compared in outcomes for name in compared]


def execute_so(recipe, overrides, how):
    return execute(recipe, overrides, **how)


def steps(recipe: Path) -> list[int]:
    paths = RunPaths(recipe.with_name("run"))
    return sorted(int(path.name.removeprefix("step-")) for path in paths.checkpoints.glob("step-*"))


SHARD = Path("data", f"{WIKI}.bin")


def test_a_block_that_is_damaged_stops_a_run_before_a_step_reads_it(recipe):
    path, checked = recipe.parent / SHARD, recipe.parent / "run" / "checked.json"
    flip(path, PLACE)
    sentence, compared = run(recipe, sampled=True, idle=True)
    assert sentence.startswith(f"{path}: bytes 131,072 to 196,608 are not those that were prepared; put the file back")
    assert sentence.endswith("; no step was trained on it") and f"{WIKI}.idx" in compared and f"{WIKI}.bin" not in compared
    done = len(taken(recipe))
    # All that was done is saved: every step is of data that was whole.
    assert steps(recipe)[-1:] == [done] * bool(done) and done < 28
    flip(path, PLACE)
    sentence, compared = run(recipe)
    assert sentence is None and steps(recipe)[-1] == 28
    # The other files were found whole before, if a checkpoint could say so.
    assert {name for name in compared if name.endswith("bin")} == {f"{WIKI}.bin", "wiki-heldout-0.bin"}
    known = {Path(file["path"]).name for file in json.loads(checked.read_text())["files"]}
    names = {f"wiki-{split}-0.{kind}" for split in ("train", "heldout") for kind in ("bin", "idx", "blocks")}
    assert known == names | {"vocab.txt", "unigrams.npy"}


def test_a_shard_of_an_earlier_version_is_compared_while_steps_run_and_the_steps_are_named(recipe):
    as_earlier_versions_wrote_it(recipe.parent / "data")
    path = recipe.parent / SHARD
    flip(path, PLACE)
    sentence, _ = run(recipe, "stages=[{name: full, steps: 10000}]", sampled=True, after=7)
    message = f"{path}: its bytes are not those that were prepared; put the file back, or prepare the text again; steps 1 to "
    assert sentence.startswith(message) and "remove the checkpoints of steps beyond 0, and start" in sentence
    last = int(sentence.removeprefix(message).split()[0])
    assert 7 <= last == len(taken(recipe)) < 10_004
    assert last not in steps(recipe) or last % 50 == 0, "nothing is saved that would not have been"


def test_a_run_does_not_end_well_before_all_is_compared_that_it_may_have_used(recipe):
    as_earlier_versions_wrote_it(recipe.parent / "data")
    flip(recipe.parent / SHARD, PLACE)
    # Days for the shard, unless it hurries at the end.
    sentence, _ = run(recipe, "stages=[{name: full, steps: 2}]", sampled=True, rate=1)
    assert "; steps 1 to 6 may have been trained on it: remove the checkpoints of steps beyond 0, and start" in sentence
    assert not (recipe.parent / "run" / "model").exists()


def test_damaged_held_out_text_stops_all_ranks_before_it_is_scored(recipe):
    path = recipe.parent / "data" / "wiki-heldout-0.bin"
    # Of the two windows that are scored each rank reads one, of the same block, which each compares by itself.
    flip(path, 32 * 2 + 10)
    sentence, _ = run(recipe, sampled=True, idle=True)
    assert (
        sentence == f"{path}: bytes 0 to 65,536 are not those that were prepared; put the file back, or prepare the text again"
    )
    assert steps(recipe) == [4]
