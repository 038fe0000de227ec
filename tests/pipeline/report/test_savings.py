"""What was saved, by hand."""

import pytest

from pipeline.report.savings import Curve, Reference, reference, saved_at, saving

CURVE = Curve((10.0, 20.0, 30.0, 60.0), (5.0, 4.0, 4.5, 2.5))
TO_REACH = Reference(4.0, 100.0)


@pytest.mark.parametrize(
    ("curve", "target", "expected"),
    [
        (CURVE, 6.0, 10.0),  # the first evaluation is there already
        (CURVE, 5.0, 10.0),
        (CURVE, 4.5, 15.0),  # half way from (10, 5) to (20, 4)
        (CURVE, 4.0, 20.0),
        (CURVE, 3.5, 45.0),  # past the rise to 4.5 at 30: half way from there to (60, 2.5)... on the line, 1 of 2 nats
        (CURVE, 2.0, None),
        (Curve((0.0, 10.0, 20.0, 30.0), (5.0, 3.0, 5.0, 2.0)), 4.0, 5.0),  # the first of several crossings
        (Curve((), ()), 100.0, None),
    ],
)
def test_a_loss_is_first_reached_on_the_line_between_two_evaluations(curve, target, expected):
    assert curve.first_reached(target) == expected


@pytest.mark.parametrize(
    ("curves", "expected"),
    [
        ([Curve((0.0, 50.0, 100.0), (8.0, 6.0, 4.0))], TO_REACH),
        ([Curve((100.0,), (4.0,)), Curve((200.0,), (5.0,)), Curve((), ())], Reference(4.5, 150.0)),
        ([Curve((), ())], None),
    ],
)
def test_the_baseline_is_the_mean_of_its_runs(curves, expected):
    assert reference(curves) == expected


@pytest.mark.parametrize(
    ("curves", "mean", "deviation", "reached"),
    [
        # 4.0 lies half way from (30, 4.5) to (50, 3.5): 40 of 100 were needed.
        ([Curve((0.0, 30.0, 50.0), (5.0, 4.5, 3.5))], 0.6, None, 1),
        # Over seeds, the deviation of a sample.
        ([Curve((spent,), (4.0,)) for spent in (40.0, 50.0, 60.0)], 0.5, 0.1, 3),
        # A run that never gets there counts among the runs and not in the mean.
        ([Curve((40.0,), (4.0,)), Curve((90.0,), (4.1,))], 0.6, None, 1),
        ([Curve((90.0,), (4.1,))], None, None, 0),
        # What costs more than the baseline.
        ([Curve((150.0,), (3.0,))], -0.5, None, 1),
    ],
)
def test_a_saving_is_the_share_that_was_not_needed(curves, mean, deviation, reached):
    found = saving(curves, TO_REACH)
    assert (found.mean, found.deviation) == (pytest.approx(mean), pytest.approx(deviation))
    assert (len(found.shares), found.runs) == (reached, len(curves))


def test_savings_along_the_curve_compare_the_costs_of_the_same_loss():
    grown, scratch = [Curve((0.0, 40.0), (5.0, 3.0))], [Curve((0.0, 100.0), (8.0, 3.0))]
    # Loss 4: grown at 20, from scratch at 80.
    assert saved_at(grown, scratch, 4.0) == [pytest.approx(0.75)]
    assert saved_at(grown, scratch, 2.0) == []
    assert saved_at([*grown, Curve((10.0,), (4.5,))], scratch, 4.0) == []
