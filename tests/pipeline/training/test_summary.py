"""The page that a run ends with."""

import re

import pytest

from pipeline.flops.ledger import Ledger
from pipeline.training.run.summary import render


def growth(grown_loss: float) -> dict:
    return {
        "source": {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4},
        "target": {"num_hidden_layers": 4, "hidden_size": 32, "num_attention_heads": 4},
        "growth": {"width": "fpi", "depth": "stack"},
        "verdict": "exact",
        "duplicates": ["residual"],
        "measured": {"max_logit_difference": 0.0},
        "in_training": {"grown_loss": grown_loss, "loss_gap": 0.0, "max_logit_difference": 0.0, "dtype": "float32"},
    }


def summary(*growths: dict, **keys: object) -> dict:
    return {
        "family": "gpt2",
        "growths": list(growths),
        "losses": {"unigram": 6.0, "source": 5.0, "grown": 4.5, "final": 3.0},
        "tokens": 1,
        "steps": 1,
        "flops": Ledger().to_json(),
        "tokens_per_second": 1.0,
        "speeds": {},
        "peak": "-",
        "peak_memory": [],
        "paths": {},
    } | keys


SAME = growth(5.0) | {"target": growth(5.0)["source"], "layers": [{"source": 0}, {"source": 1}]}


@pytest.mark.parametrize(
    ("growths", "labels"),
    [
        ([SAME], []),
        ([growth(4.5)], ["right after growth"]),
        ([SAME, growth(4.5)], ["right after growth"]),
        ([growth(4.5), growth(3.5)], ["right after growth 1", "right after growth 2"]),
    ],
)
def test_the_loss_right_after_each_growth_is_told(growths, labels):
    """Of a growth to the same model nothing is."""
    page = render(summary(*growths))
    grown = [each for each in growths if each is not SAME]
    assert page.count("warning: Training cannot tell new channels from those that they copy") == len(grown)
    assert ("gpt2: 2 layers x 32 (4 heads), not grown\n" in page) == (not grown)
    rows = re.findall(r"^  (source|right after.*?|after training)  +(\d\.\d{4}) ", page, re.MULTILINE)
    losses = [f"{each['in_training']['grown_loss']:.4f}" for each in grown]
    assert rows == [("source", "5.0000"), *zip(labels, losses, strict=True), ("after training", "3.0000")]


def test_parameters_are_told_with_those_that_a_token_meets():
    assert "parameters" not in render(summary(growth(4.5)))
    mixture = render(summary(growth(4.5), parameters={"total": 4000, "active": 1500}))
    assert "parameters    4,000, of which a token meets 1,500" in mixture
    assert "parameters    4,000\n" in render(summary(growth(4.5), parameters={"total": 4000, "active": 4000}))
