"""Every growth that departs from its source's function can be explained."""

import pytest

from pipeline.growth.reasons import predict
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
