"""What was saved, by hand."""

import pytest

from pipeline.report.savings import Curve, Reference, reference, saved_at, saving


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (6.0, 10.0),  # the first evaluation is there already
        (5.0, 10.0),
        (4.5, 15.0),  # half way from (10, 5) to (20, 4)
        (4.0, 20.0),
        (3.5, 45.0),  # past the rise to 4.5 at 30: half way from there to (60, 2.5)... on the line, 1 of 2 nats
        (2.0, None),
    ],
)
def test_a_loss_is_first_reached_on_the_line_between_two_evaluations(target, expected):
    curve = Curve((10.0, 20.0, 30.0, 60.0), (5.0, 4.0, 4.5, 2.5))
    assert curve.first_reached(target) == expected


def test_the_first_of_several_crossings_counts():
    assert Curve((0.0, 10.0, 20.0, 30.0), (5.0, 3.0, 5.0, 2.0)).first_reached(4.0) == 5.0


def test_a_curve_without_evaluations_reaches_nothing():
    assert Curve((), ()).first_reached(100.0) is None


def test_a_saving_is_the_share_that_was_not_needed():
    baseline = [Curve((0.0, 50.0, 100.0), (8.0, 6.0, 4.0))]
    against = reference(baseline)
    assert against == Reference(4.0, 100.0)
    # 4.0 lies half way from (30, 4.5) to (50, 3.5): 40 of 100.
    found = saving([Curve((0.0, 30.0, 50.0), (5.0, 4.5, 3.5))], against)
    assert found.mean == pytest.approx(0.6)
    assert found.deviation is None


def test_the_baseline_is_the_mean_of_its_runs():
    assert reference([Curve((100.0,), (4.0,)), Curve((200.0,), (5.0,)), Curve((), ())]) == Reference(4.5, 150.0)
    assert reference([Curve((), ())]) is None


def test_savings_over_seeds_have_a_mean_and_the_deviation_of_a_sample():
    found = saving([Curve((spent,), (4.0,)) for spent in (40.0, 50.0, 60.0)], Reference(4.0, 100.0))
    assert found.mean == pytest.approx(0.5)
    assert found.deviation == pytest.approx(0.1)


def test_a_run_that_never_gets_there_counts_among_the_runs_and_not_in_the_mean():
    found = saving([Curve((40.0,), (4.0,)), Curve((90.0,), (4.1,))], Reference(4.0, 100.0))
    assert (found.shares, found.runs) == ((pytest.approx(0.6),), 2)
    nobody = saving([Curve((90.0,), (4.1,))], Reference(4.0, 100.0))
    assert (nobody.mean, nobody.deviation, nobody.runs) == (None, None, 1)


def test_what_costs_more_than_the_baseline_is_a_negative_saving():
    assert saving([Curve((150.0,), (3.0,))], Reference(4.0, 100.0)).mean == pytest.approx(-0.5)


def test_savings_along_the_curve_compare_the_costs_of_the_same_loss():
    grown, scratch = [Curve((0.0, 40.0), (5.0, 3.0))], [Curve((0.0, 100.0), (8.0, 3.0))]
    # Loss 4: grown at 20, from scratch at 80.
    assert saved_at(grown, scratch, 4.0) == [pytest.approx(0.75)]
    assert saved_at(grown, scratch, 2.0) == []
    assert saved_at([*grown, Curve((10.0,), (4.5,))], scratch, 4.0) == []
