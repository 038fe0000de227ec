"""Metrics against scikit-learn, scipy and cases by hand."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import matthews_corrcoef

from pipeline.evaluation.tuning.metrics import METRICS, exact_match, overlap


def test_class_metrics_by_hand():
    labels, predictions = np.array([1, 1, 1, 0, 0, 0, 0, 0]), np.array([1, 1, 0, 0, 0, 0, 1, 1])
    assert METRICS["accuracy"](labels, predictions) == pytest.approx(5 / 8)
    assert METRICS["f1"](labels, predictions) == pytest.approx(2 * 2 / (3 + 4))
    # (tp tn - fp fn) / sqrt((tp + fp) (tp + fn) (tn + fp) (tn + fn))
    assert METRICS["matthews"](labels, predictions) == pytest.approx((2 * 3 - 2 * 1) / (4 * 3 * 5 * 4) ** 0.5)
    assert METRICS["matthews"](labels, predictions) == matthews_corrcoef(labels, predictions)


def test_correlations_are_scipys_of_numbers_and_ranks():
    labels, predictions = np.array([0.0, 1.0, 2.5, 5.0, 4.0]), np.array([0.1, 0.2, 0.9, 0.8, 7.0])
    assert METRICS["pearson"](labels, predictions) == pytest.approx(np.corrcoef(labels, predictions)[0, 1])
    ranks = [np.argsort(np.argsort(values)) for values in (labels, predictions)]
    assert METRICS["spearman"](labels, predictions) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    # Some releases of scipy round the two arguments in their order.
    assert METRICS["pearson"](labels, predictions) == pytest.approx(pearsonr(predictions, labels)[0], rel=1e-15)
    assert METRICS["spearman"](labels, predictions) == pytest.approx(spearmanr(predictions, labels)[0], rel=1e-15)


@pytest.mark.parametrize("predictions", [[1.0], [2.0, 2.0, 2.0], [np.nan, np.nan, np.nan]])
def test_a_correlation_that_is_not_defined_is_no_number(predictions):
    labels = np.arange(float(len(predictions)))
    assert np.isnan([METRICS[name](labels, np.array(predictions)) for name in ("pearson", "spearman")]).all()


@pytest.mark.parametrize(
    ("prediction", "answers", "em", "f1"),
    [
        ("The Beatles!", ["beatles"], 1, 1),
        ("an apple", ["the  apple."], 1, 1),
        ("theatre", ["atre"], 0, 0),
        ("the red fox", ["red dog"], 0, 1 / 2),
        ("fox fox", ["fox"], 0, 2 / 3),
        ("U.S.", ["us"], 1, 1),
        ("x", ["y", "x z", "z"], 0, 2 / 3),
        ("", ["x"], 0, 0),
        ("1,000", ["1000"], 1, 1),
    ],
)
def test_squads_metrics_by_hand(prediction, answers, em, f1):
    assert exact_match(prediction, answers) == em
    assert overlap(prediction, answers) == pytest.approx(f1)
