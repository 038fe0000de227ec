"""What is said of the text that a run reads."""

from pathlib import Path

import pytest

from pipeline.common.errors import UserError
from pipeline.families import FAMILIES
from pipeline.recipe import load_recipe
from pipeline.training.plan.data_mixes import DataMixes
from tests.shards import write_prepared

QUICKSTART = Path(__file__).parents[3] / "launch" / "recipes" / "quickstart.yaml"


@pytest.mark.parametrize(
    ("family", "attention", "refused"),
    [("roberta", "window", True), ("roberta", "document", False), ("bert", "window", False), ("gpt2", "window", False)],
)
def test_padding_tokens_in_a_text_are_refused_where_positions_would_be_counted_without_them(
    tmp_path, family, attention, refused
):
    """Token 1 is RoBERTa's padding, and an unknown word to the others."""
    data = write_prepared(tmp_path, {"wiki": ([[[[10] * 20 + [1] + [10] * 29]]], [[[[11] * 25]]])})
    recipe = load_recipe(QUICKSTART, ["data.sequence_length=8", "evaluation.windows=2", f"data.attention={attention}"])
    if refused:
        with pytest.raises(UserError, match="corpus 'wiki' holds the padding token, id 1"):
            DataMixes(recipe, FAMILIES[family], data)
    else:
        mixes = DataMixes(recipe, FAMILIES[family], data)
        assert len(mixes.training(mixes.own)) > 4


@pytest.mark.parametrize("windows", [3, 4])
def test_more_held_out_windows_than_there_are_are_told(tmp_path, windows, messages):
    """25 held-out tokens are three windows of 8, each with the token that its last one is scored on."""
    data = write_prepared(tmp_path, {"wiki": ([[[[10] * 50]]], [[[[11] * 25]]])})
    recipe = load_recipe(QUICKSTART, ["data.sequence_length=8", f"evaluation.windows={windows}"])
    mixes = DataMixes(recipe, FAMILIES["gpt2"], data)
    assert len(mixes.heldout) == 3
    expected = ["evaluation.windows: 4 are wanted, and the held-out text has 3; all of them are taken"]
    assert messages == (expected if windows == 4 else [])
