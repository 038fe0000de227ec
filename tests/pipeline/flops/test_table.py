"""The arithmetic behind bert2BERT's table 2 (Chen et al. 2022), on BERT-base."""

import pytest
from transformers import BertConfig

from pipeline.families import ActiveLayers
from pipeline.flops.counts import ForwardFlops, training_step

BASE = BertConfig()
LENGTH, TOKENS, BLOCK = 512, 100 * 512, 3
DEPTHS = range(BLOCK, BASE.num_hidden_layers + 1, BLOCK)


def cost(active: ActiveLayers | None, scored: float) -> int:
    """Model FLOPs of a step whose head scores this share of the positions."""
    return training_step(ForwardFlops.of(BASE), LENGTH, TOKENS, scored=round(scored * TOKENS), active=active).model_total


@pytest.mark.parametrize(
    ("scored", "share", "without_input_gradient"),
    [
        # Without the head, by layers alone: (7.5 + 2 x 3) / (3 x 12) = .375.
        (0.0, 0.375, 0.369),
        (1.0, 0.502, 0.497),
        (0.15, 0.398, 0.392),
    ],
    ids=["no head", "all positions scored", "15 % scored"],
)
def test_an_average_step_of_sub_models_costs_its_share_of_a_full_step(scored, share, without_input_gradient):
    full = cost(None, scored)
    submodels = sum(cost(ActiveLayers.top(depth, BLOCK), scored) for depth in DEPTHS) / len(DEPTHS)
    # Of the lowest block's first layer, q, k and v owe no gradient to their input.
    unowed = TOKENS * 2 * BASE.hidden_size * 3 * BASE.hidden_size
    assert round(submodels / full, 3) == without_input_gradient
    assert round((submodels + unowed) / full, 3) == share


def test_mslt_costs_what_table_2_says():
    # 8 epochs at each depth 3, 6, 9, 12, of which the top 3 layers learn (the first model whole), then 20 of the whole.
    first, *later = DEPTHS
    partial = 8 * (cost(ActiveLayers.whole(first), 1.0) + sum(cost(ActiveLayers.top(depth, BLOCK), 1.0) for depth in later))
    share = (partial + 20 * cost(None, 1.0)) / (40 * cost(None, 1.0))
    assert round(share, 2) == 0.90
    # Table 2: 10.7 % of BERT-base's 40 epochs saved.
    assert share == pytest.approx(1 - 0.107, rel=0.02)
