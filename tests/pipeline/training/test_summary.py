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


@pytest.mark.parametrize(
    ("losses", "labels"), [([4.5], ["right after growth"]), ([4.5, 3.5], ["right after growth 1", "right after growth 2"])]
)
def test_the_loss_right_after_each_growth_is_told(losses, labels):
    summary = {
        "family": "gpt2",
        "growths": [growth(loss) for loss in losses],
        "losses": {"unigram": 6.0, "source": 5.0, "grown": losses[0], "final": 3.0},
        "tokens": 1,
        "steps": 1,
        "flops": Ledger().to_json(),
        "tokens_per_second": 1.0,
        "speeds": {},
        "peak": "-",
        "peak_memory": [],
        "paths": {},
    }
    assert "parameters" not in render(summary)
    mixture = render(summary | {"parameters": {"total": 4000, "active": 1500}})
    assert "parameters    4,000, of which a token meets 1,500" in mixture
    assert "parameters    4,000\n" in render(summary | {"parameters": {"total": 4000, "active": 4000}})
    assert render(summary).count("warning: Training cannot tell new channels from those that they copy") == len(losses)
    told = re.findall(r"^  (source|right after.*?|after training)  +(\d\.\d{4}) ", render(summary), re.MULTILINE)
    grown = [(label, f"{loss:.4f}") for label, loss in zip(labels, losses, strict=True)]
    assert told == [("source", "5.0000"), *grown, ("after training", "3.0000")]
