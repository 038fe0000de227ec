"""Metrics, all between -1 and 1, of predictions: by scikit-learn and scipy, and SQuAD's own."""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np


def _scored(by: str, labels: np.ndarray, predictions: np.ndarray) -> float:
    from sklearn import metrics  # half a second, which runs without fine-tuning need not wait

    return getattr(metrics, by)(labels, predictions)


def _correlation(by: str, labels: np.ndarray, predictions: np.ndarray) -> float:
    """A correlation; NaN, without a word, of fewer than two or of equal values, which scipy raises or warns about."""
    from scipy import stats  # as slow

    values = [np.unique(labels), np.unique(predictions)]
    return getattr(stats, by)(labels, predictions).statistic if min(map(len, values)) > 1 else math.nan


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": partial(_scored, "accuracy_score"),
    "f1": partial(_scored, "f1_score"),
    "matthews": partial(_scored, "matthews_corrcoef"),
    "pearson": partial(_correlation, "pearsonr"),
    "spearman": partial(_correlation, "spearmanr"),
}
"""Of labels and predictions, in that order; the correlations are NaN where all predictions are equal."""


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 where the prediction is one of the answers, both normalized, else 0 (Rajpurkar et al. 2016)."""
    return float(any(_normalized(prediction) == _normalized(answer) for answer in answers))


def overlap(prediction: str, answers: Sequence[str]) -> float:
    """F1 of the words that prediction and answer share, with the answer that suits best (Rajpurkar et al. 2016)."""
    return max(_overlap(_normalized(prediction).split(), _normalized(answer).split()) for answer in answers)


def _overlap(prediction: list[str], answer: list[str]) -> float:
    shared = (Counter(prediction) & Counter(answer)).total()
    return 2 * shared / (len(prediction) + len(answer)) if shared else 0.0


def _normalized(text: str) -> str:
    """In lower case, without ASCII punctuation, then without articles, words parted by one space."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())
