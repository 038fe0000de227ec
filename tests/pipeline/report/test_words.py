"""Every certificate can be explained."""

import pytest

from pipeline.growth.reasons import predict
from pipeline.report.figures import amount
from pipeline.report.smoothing import smoothed, thinned
from tests.pipeline.growth.models import plan_of, small_model


@pytest.mark.parametrize(
    ("family", "target", "growth"),
    [
        ("gpt2", {"hidden_size": 48}, {"width": "fpi"}),
        ("llama", {"hidden_size": 48, "num_key_value_heads": 3}, {"width": "average_pad"}),
        ("gpt2", {"hidden_size": 48}, {"width": "direct_copy"}),
        ("gpt2", {"hidden_size": 48}, {"width": "zero_pad", "noise": 0.1}),
        ("gpt2", {"hidden_size": 64}, {"width": "aki"}),
        ("gpt2", {"hidden_size": 64}, {"width": "nai", "noise": 0.02}),
        ("gpt2", {"hidden_size": 64}, {"width": "nai", "paper_factor": True}),
        ("gpt2", {"max_position_embeddings": 32}, {"positions": "interpolate"}),
        ("bert", {"num_hidden_layers": 5}, {"depth": "last_layer"}),
        ("gpt2", {"num_hidden_layers": 5}, {"depth": "stack"}),
        ("gpt2", {"num_hidden_layers": 5}, {"depth": "random"}),
        ("gpt2", {}, {"depth": "list", "layers": [1, 0, 2]}),
    ],
)
def test_every_departure_has_a_meaning(family, target, growth):
    plan, _ = plan_of(small_model(family), target, growth)
    reasons = predict(plan)
    assert reasons
    for reason in reasons:
        assert reason.meaning and reason.meaning != reason.cause
        assert "{" not in reason.cause + reason.meaning


def test_a_running_mean_leaves_out_what_is_no_number():
    nan = float("nan")
    assert smoothed([1.0, nan, 3.0, 8.0], 3).tolist() == [1.0, 2.0, 5.5, 5.5]
    assert smoothed([1.0, 2.0], 1).tolist() == [1.0, 2.0]


def test_a_line_of_many_steps_has_few_points_and_its_last():
    assert thinned(7, 1) == [0, 1, 2, 3, 4, 5, 6]
    many = thinned(1_000_001, 12_500)
    assert len(many) < 400
    assert (many[0], many[-1]) == (0, 1_000_000)


@pytest.mark.parametrize(
    ("quantity", "value", "told"),
    [
        ("flops", 24.3e12, "24.3 TFLOP"),
        ("flops", 0, "0 FLOP"),
        ("tokens", 2_539_520, "2.54 million"),
        ("steps", 12345, "12,345"),
        ("seconds", 90, "1.5 min"),
    ],
)
def test_amounts_read_well(quantity, value, told):
    assert amount(quantity, value).replace("\N{NO-BREAK SPACE}", " ") == told
