"""What a run directory tells, and which runs are one method."""

import json

import pytest

from pipeline.common.errors import UserError
from pipeline.report.comparison import View, savings
from pipeline.report.methods import baseline_of, group
from pipeline.report.recorded import read_run
from pipeline.report.savings import reference
from tests.pipeline.report.recorded_runs import Made, known_source

GIGA = 10**9


def test_what_was_spent_is_counted_from_the_records_and_the_source_apart(tmp_path):
    run = read_run(Made(tmp_path / "run").write())
    assert run.ended
    assert run.spent(80) == {"flops": (20 + 60 * 4) * GIGA, "tokens": 80 * 256, "steps": 80, "seconds": 40.0}
    assert run.source_spent["flops"] == 20 * GIGA
    assert [name for name, _, _ in run.stages] == ["source", "submodels", "full"]
    assert run.target_evaluations[0] == (20, "grown", 5.5)


def test_evaluations_of_models_on_the_way_are_not_the_targets(tmp_path):
    run = read_run(Made(tmp_path / "run", growths=2).write())
    assert {record.stage for record in run.target_evaluations} == {"deeper", "full"}
    assert {record.stage for record in run.grown_evaluations} == {"grown", "submodels", "deeper", "full"}
    assert [record.stage for record in run.growth_points] == ["grown", "deeper"]
    assert len(run.certificates) == 2


def test_a_run_is_from_scratch_where_nothing_is_grown(tmp_path):
    assert read_run(Made(tmp_path / "scratch", scratch=True).write()).from_scratch
    assert not read_run(Made(tmp_path / "grown").write()).from_scratch
    assert not read_run(Made(tmp_path / "given", given="models/small").write()).from_scratch


def test_a_model_that_was_never_trained_is_no_point_of_a_curve(tmp_path):
    run = read_run(Made(tmp_path / "scratch", scratch=True).write())
    assert run.evaluations[0].step == 0
    assert run.target_evaluations[0].step == 5


def test_a_run_that_goes_on_is_read_as_far_as_it_is_written(tmp_path):
    run = read_run(Made(tmp_path / "run", recorded=37, half_a_line=True).write())
    assert (run.ended, run.last_step) == (False, 37)
    lengthened = Made(tmp_path / "longer").write()
    (lengthened / "metrics.jsonl").open("a").write(
        (lengthened / "metrics.jsonl").read_text().splitlines()[-1].replace(": 80,", ": 81,", 1) + "\n"
    )
    assert not read_run(lengthened).ended


def test_losses_that_are_no_numbers_are_told_and_left_out(tmp_path):
    path = Made(tmp_path / "run", nan_at=33).write()
    (path / "eval.jsonl").open("a").write('{"step": 80, "stage": "full", "loss": null, "scored_tokens": 100}\n')
    run = read_run(path)
    assert run.skipped == [33]
    assert run.final_loss == pytest.approx(run.evaluations[-1].loss)


@pytest.mark.parametrize(("ledger", "flops", "wasted"), [(known_source(), 20 * GIGA, 3 * GIGA), (None, None, 0)])
def test_a_given_source_costs_what_its_ledger_says_or_is_not_known(tmp_path, ledger, flops, wasted):
    run = read_run(Made(tmp_path / "run", given="models/small", inherited=ledger).write())
    assert (run.inherited_flops, run.inherited_waste) == (flops, wasted)
    (method,) = group([(None, run)])
    own = method.curves("flops", with_source=False)[0]
    assert own.spent[0] == 0
    whole = method.curves("flops", with_source=True)
    assert [curve.spent[0] for curve in whole] == ([] if flops is None else [flops])
    # Of a given source no more than its FLOPs is known.
    assert method.curves("seconds", with_source=True) == []


def test_lost_steps_count_once(tmp_path):
    path = Made(tmp_path / "run", lost=3).write()
    lost = path / "lost.jsonl"
    lost.write_text(lost.read_text() + lost.read_text().splitlines()[0] + "\n")
    run = read_run(path)
    assert (len(run.lost), run.wasted) == (3, 12 * GIGA)


@pytest.mark.parametrize(
    ("prepare", "told"),
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
def test_what_is_no_run_is_refused_in_a_sentence(tmp_path, prepare, told):
    prepare(tmp_path / "run")
    with pytest.raises(UserError, match=told):
        read_run(tmp_path / "run")


def damage(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_runs_that_differ_in_the_seed_alone_are_one_method(tmp_path):
    runs = [read_run(Made(tmp_path / f"nai-seed{seed}", seed=seed).write()) for seed in (1, 2, 3)]
    runs.append(read_run(Made(tmp_path / "slow", changes={"optimizer": {"lr": 1e-5}}).write()))
    methods = group([(None, run) for run in runs])
    assert [(method.name, len(method.runs)) for method in methods] == [("nai", 3), ("slow", 1)]


def test_runs_whose_batches_differ_in_deepspeeds_configuration_are_two_methods(tmp_path):
    runs = [Made(tmp_path / f"nai-{seed}", seed=seed).write() for seed in (1, 2, 3)]
    (runs[1] / "ds_config.json").write_text('{"train_batch_size": 64, "zero_optimization": {"stage": 3}}')
    (runs[2] / "ds_config.json").write_text('{"train_batch_size": 8, "zero_optimization": {"stage": 1}}')
    methods = group([(None, read_run(run)) for run in runs])
    assert [[run.recipe.seed for run in method.runs] for method in methods] == [[1, 3], [2]]


def test_runs_of_one_given_name_are_one_method(tmp_path):
    runs = [read_run(Made(tmp_path / str(number), changes={"train_batch_size": number}).write()) for number in (8, 16)]
    assert [method.name for method in group([("ours", run) for run in runs])] == ["ours"]
    assert [method.name for method in group([("a", runs[0]), ("b", runs[1])])] == ["a", "b"]


def test_a_run_named_twice_is_refused(tmp_path):
    run = read_run(Made(tmp_path / "run").write())
    with pytest.raises(UserError, match="twice"):
        group([("a", run), ("b", run)])


def test_the_baseline_is_the_one_from_scratch_or_the_one_named(tmp_path):
    scratch, grown = (read_run(Made(tmp_path / name, scratch=name == "scratch").write()) for name in ("scratch", "grown"))
    methods = group([(None, scratch), (None, grown)])
    assert baseline_of(methods, None)[0].name == "scratch"
    assert baseline_of(methods, "grown")[0].name == "grown"
    with pytest.raises(UserError, match="choose scratch, grown"):
        baseline_of(methods, "other")
    none, reason = baseline_of(methods[1:], None)
    assert none is None
    assert "None of the runs was trained from scratch" in reason
    several, reason = baseline_of([methods[0], methods[0]], None)
    assert several is None
    assert "Several" in reason


def test_savings_of_recorded_runs_come_out_as_by_hand(tmp_path):
    """The curves are straight lines of our own here: 4.2 at 120 GFLOP from scratch, at 20 + 4 x 10 grown."""
    scratch = Made(tmp_path / "scratch", scratch=True, steps=30).write()
    grown = Made(tmp_path / "grown", steps=30).write()
    for path, points in ((scratch, [(15, "full", 6.2), (30, "full", 4.2)]), (grown, [(20, "grown", 5.2), (40, "full", 3.2)])):
        lines = [
            f'{{"step": {step}, "stage": "{stage}", "loss": {loss}, "scored_tokens": 1}}\n' for step, stage, loss in points
        ]
        (path / "eval.jsonl").write_text("".join(lines))
    methods = group([(None, read_run(scratch)), (None, read_run(grown))])
    assert reference(methods[0].curves("flops", with_source=False)).spent == 120 * GIGA

    def saved(quantity, with_source):
        return savings(methods, methods[0], View(quantity, with_source))["grown"].mean

    assert saved("flops", False) == pytest.approx(1 - 40 / 120)
    assert saved("flops", True) == pytest.approx(1 - 60 / 120)
    assert saved("steps", False) == pytest.approx(1 - 10 / 30)
    assert saved("steps", True) == pytest.approx(1 - 30 / 30)
