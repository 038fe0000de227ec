"""Whole runs on data whose losses are no numbers: skipped, gone past, or given up with what was seen."""

import math

import pytest

from pipeline.common.quiet import EXIT_DIVERGED
from pipeline.flops.ledger import Ledger

POISONED = """
import math, os, runpy, sys
sys.path.insert(0, os.getcwd())
import pipeline.training.loop.steps as loop
from pipeline.data.batches import Batches

first, end = FIRST, END
bad, plain_training, plain_losses = [], Batches.training, loop.summed_losses

def training(self, samples):
    batch = plain_training(self, samples)
    if any(first <= sample < end for sample in samples):
        bad.append(batch.labels)
    return batch

def losses(logits, labels, pair_labels):
    sums = plain_losses(logits, labels, pair_labels)
    return sums._replace(tokens=sums.tokens * math.nan) if any(labels is each for each in bad) else sums

Batches.training, loop.summed_losses = training, losses
sys.argv[0] = "launch/pretrain.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""launch/pretrain.py, but for a loss that is no number on some samples."""

STAGES = [{"name": "full", "steps": 10}]


def start(launch, recipe, tmp_path, samples: range, ranks: int = 0, **changes):
    script = tmp_path / "poisoned.py"
    script.write_text(POISONED.replace("FIRST", str(samples.start)).replace("END", str(samples.stop)))
    return launch(recipe(stages=STAGES, checkpointing={"every": 11}, **changes), ranks=ranks, script=script)


def test_a_step_without_a_number_is_skipped_on_all_ranks(launch, recipe, tmp_path):
    """Of the sixth batch of 8 one sample is bad, which one rank of two reads."""
    finished = start(launch, recipe, tmp_path, range(40, 41), ranks=2).finish()
    assert [record["step"] for record in finished.metrics if record["skipped"]] == [6]
    assert finished.metrics[5]["loss"] is None
    assert all(math.isfinite(record["loss"]) for record in finished.metrics if not record["skipped"])
    assert "warning: step 6 is skipped: 1 step without a finite loss" in finished.output
    assert Ledger.from_json(finished.summary["flops"]).wasted == 0


def test_a_run_goes_back_to_its_checkpoint_and_past_the_data_that_no_step_can_learn_from(launch, recipe, tmp_path):
    """Steps 10 to 12 are bad, in the target's training; the checkpoint before them is of step 8, the source's last.

    One is due at step 11, and is left out.
    """
    finished = start(launch, recipe, tmp_path, range(72, 96), guard={"skipped_steps": 3}).finish()
    assert "step 12: 3 steps in a row without a finite loss (the last loss was nan); going back to step 8" in finished.output
    assert [record["step"] for record in finished.metrics] == list(range(1, 19))
    assert not any(record["skipped"] for record in finished.metrics)
    assert [record["stage"] for record in finished.evaluations] == ["source", "grown", "full"]
    ledger = Ledger.from_json(finished.summary["flops"])
    # Four steps of the target were taken and lost: 9 to 12.
    assert ledger.wasted == 4 * finished.metrics[-1]["flops_executed"]
    assert ledger.total == finished.metrics[-1]["flops_total"]


@pytest.mark.full
def test_a_run_that_meets_the_same_again_stops_with_what_was_seen(launch, recipe, tmp_path):
    """And once more when the same command is started again, with no more tries than it had left."""
    settings = {"skipped_steps": 2, "rewinds": 1}
    finished = start(launch, recipe, tmp_path, range(72, 9999), guard=settings).wait()
    assert finished.status == EXIT_DIVERGED
    assert (
        "2 steps in a row without a finite loss (the last loss was nan), after going back once (guard.rewinds)"
        in finished.error
    )
    assert "Traceback" not in finished.error
    again = start(launch, recipe, tmp_path, range(72, 9999), guard=settings).wait()
    assert (again.status, again.error) == (EXIT_DIVERGED, finished.error)
    assert "going back" in finished.output and "going back" not in again.output
