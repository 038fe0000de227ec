"""What a run directory tells, and which runs are one method."""

import json

import pytest

from pipeline.common.errors import UserError
from pipeline.report.methods import COMPUTE, COMPUTE_WITH_SOURCE, View, baseline_of, group
from pipeline.report.recorded import read_run
from pipeline.report.savings import reference
from tests.pipeline.report.recorded_runs import Made, known_source

GIGA = 10**9


def made(path, name="run", **how):
    return read_run(Made(path / name, **how).write())


def methods_of(*runs):
    return group([(None, run) for run in runs])


def test_what_was_spent_is_counted_from_the_records_and_the_source_apart(tmp_path):
    run = made(tmp_path)
    assert run.ended
    assert run.spent(80) == {"flops": (20 + 60 * 4) * GIGA, "tokens": 80 * 256, "steps": 80, "seconds": 40.0}
    assert run.source_spent["flops"] == 20 * GIGA
    assert [name for name, _, _ in run.stages] == ["source", "submodels", "full"]
    assert run.target_evaluations[0] == (20, "grown", 5.5)


def test_evaluations_of_models_on_the_way_are_not_the_targets(tmp_path):
    run = made(tmp_path, growths=2)
    assert {record.stage for record in run.target_evaluations} == {"deeper", "full"}
    assert {record.stage for record in run.grown_evaluations} == {"grown", "submodels", "deeper", "full"}
    assert [record.stage for record in run.growth_points] == ["grown", "deeper"]
    assert len(run.certificates) == 2


def test_a_run_is_from_scratch_where_nothing_is_grown_and_an_untrained_model_is_no_point_of_its_curve(tmp_path):
    scratch = made(tmp_path, "scratch", scratch=True)
    assert scratch.from_scratch
    assert (scratch.evaluations[0].step, scratch.target_evaluations[0].step) == (0, 5)
    assert not made(tmp_path, "grown").from_scratch and not made(tmp_path, "given", given="models/small").from_scratch


def test_a_run_that_goes_on_is_read_as_far_as_it_is_written(tmp_path):
    run = made(tmp_path, recorded=37, half_a_line=True)
    assert (run.ended, run.last_step) == (False, 37)
    lengthened = Made(tmp_path / "longer").write()
    lines = (lengthened / "metrics.jsonl").read_text().splitlines(keepends=True)
    (lengthened / "metrics.jsonl").write_text("".join([*lines, lines[-1].replace(": 80,", ": 81,", 1)]))
    assert not read_run(lengthened).ended


def test_losses_that_are_no_numbers_are_told_and_left_out(tmp_path):
    path = Made(tmp_path / "run", nan_at=33).write()
    (path / "eval.jsonl").open("a").write('{"step": 80, "stage": "full", "loss": null, "scored_tokens": 100}\n')
    run = read_run(path)
    assert run.skipped == [33] and run.unscored == [80]
    assert run.final_loss == pytest.approx(run.evaluations[-1].loss)


@pytest.mark.parametrize(("ledger", "flops", "wasted"), [(known_source(), 20 * GIGA, 3 * GIGA), (None, None, 0)])
def test_a_given_source_costs_what_its_ledger_says_or_is_not_known(tmp_path, ledger, flops, wasted):
    run = made(tmp_path, given="models/small", inherited=ledger)
    assert (run.inherited_flops, run.inherited_waste) == (flops, wasted)
    (method,) = methods_of(run)
    own = method.curves(COMPUTE)[0]
    assert own.spent[0] == 0
    whole = method.curves(COMPUTE_WITH_SOURCE)
    assert [curve.spent[0] for curve in whole] == ([] if flops is None else [flops])
    # Of a given source no more than its FLOPs is known.
    assert method.curves(View("seconds", with_source=True)) == []


def test_lost_steps_count_once(tmp_path):
    path = Made(tmp_path / "run", lost=3).write()
    lost = path / "lost.jsonl"
    lost.write_text(lost.read_text() + lost.read_text().splitlines()[0] + "\n")
    run = read_run(path)
    assert (len(run.lost), run.wasted) == (3, 12 * GIGA)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: None, "no such directory"),
        (lambda path: path.mkdir(), "not a run directory"),
        (lambda path: (path.mkdir(), (path / "recipe.yaml").write_text("seed: 1\n")), "recipe.yaml"),
        (lambda path: (Made(path).write(), (path / "metrics.jsonl").write_text("{}\nnot JSON\n{}\n")), "metrics.jsonl"),
        (
            lambda path: (Made(path).write(), (path / "summary.json").write_text('{"steps": 80, "flops": {}}')),
            "summary.json: family: Field",
        ),
        (lambda path: (Made(path).write(), damage(path / "summary.json", flops={})), "flops.stages: Field"),
    ],
)
def test_what_is_no_run_is_refused_in_a_sentence(tmp_path, prepare, message):
    prepare(tmp_path / "run")
    with pytest.raises(UserError, match=message):
        read_run(tmp_path / "run")


def damage(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_runs_that_differ_in_the_seed_alone_are_one_method(tmp_path):
    runs = [made(tmp_path, f"nai-seed{seed}", seed=seed) for seed in (1, 2, 3)]
    methods = methods_of(*runs, made(tmp_path, "slow", changes={"optimizer": {"lr": 1e-5}}))
    assert [(method.name, len(method.runs)) for method in methods] == [("nai", 3), ("slow", 1)]


def test_runs_whose_batches_differ_in_deepspeeds_configuration_are_two_methods(tmp_path):
    runs = [Made(tmp_path / f"nai-{seed}", seed=seed).write() for seed in (1, 2, 3)]
    (runs[1] / "ds_config.json").write_text('{"train_batch_size": 64, "zero_optimization": {"stage": 3}}')
    (runs[2] / "ds_config.json").write_text('{"train_batch_size": 8, "zero_optimization": {"stage": 1}}')
    assert [[run.recipe.seed for run in method.runs] for method in methods_of(*map(read_run, runs))] == [[1, 3], [2]]


def test_runs_of_one_given_name_are_one_method_and_a_run_named_twice_is_refused(tmp_path):
    first, other = (made(tmp_path, str(number), changes={"train_batch_size": number}) for number in (8, 16))
    assert [method.name for method in group([("ours", first), ("ours", other)])] == ["ours"]
    assert [method.name for method in group([("a", first), ("b", other)])] == ["a", "b"]
    with pytest.raises(UserError, match="twice"):
        group([("a", first), ("b", first)])


def test_the_baseline_is_the_one_from_scratch_or_the_one_named(tmp_path):
    methods = methods_of(made(tmp_path, "scratch", scratch=True), made(tmp_path, "grown"))
    for name, found in ((None, "scratch"), ("grown", "grown")):
        assert baseline_of(methods, name)[0].name == found
    with pytest.raises(UserError, match="choose scratch, grown"):
        baseline_of(methods, "other")
    for of, words in ((methods[1:], "None of the runs was trained from scratch"), ([methods[0], methods[0]], "Several")):
        none, reason = baseline_of(of, None)
        assert none is None and words in reason


def test_savings_of_recorded_runs_come_out_as_by_hand(tmp_path):
    """The curves are straight lines of our own here: 4.2 at 120 GFLOP from scratch, at 20 + 4 x 10 grown."""
    scratch = Made(tmp_path / "scratch", scratch=True, steps=30).write()
    grown = Made(tmp_path / "grown", steps=30).write()
    for path, points in ((scratch, [(15, "full", 6.2), (30, "full", 4.2)]), (grown, [(20, "grown", 5.2), (40, "full", 3.2)])):
        evaluations = [dict(zip(("step", "stage", "loss"), point, strict=True)) for point in points]
        (path / "eval.jsonl").write_text("".join(json.dumps(one) + "\n" for one in evaluations))
    methods = methods_of(read_run(scratch), read_run(grown))
    assert reference(methods[0].curves(COMPUTE)).spent == 120 * GIGA
    for quantity, *shares in (("flops", 40 / 120, 60 / 120), ("steps", 10 / 30, 1)):
        for with_source, share in zip((False, True), shares, strict=True):
            saved = methods[1].saving(View(quantity, with_source), methods[0])
            assert saved.mean == pytest.approx(1 - share)
