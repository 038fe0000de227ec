"""Plans: maps by hand, noise where it belongs, what starts without moments, and what is refused."""

import pytest
import torch

from pipeline.common.errors import UserError
from pipeline.growth.certificate import certify
from pipeline.growth.optimizer_growth import grow_optimizer
from pipeline.growth.state import Constant
from pipeline.growth.step_predictions import predict_moments
from tests.pipeline.growth.models import grown_tensors, plan_of, small_model, state_of, whole


def test_a_certificate_keeps_what_there_is_to_say_of_the_source_and_whether_what_should_be_exact_was():
    plan, _ = plan_of(small_model("gpt2"), {"hidden_size": 64}, {"width": "fpi"})
    for moved, agrees in ((1e-13, True), (1e-9, False)):
        measured = {"max_logit_difference": moved, "dtype": "float64"}
        certificate = certify(plan, "somewhere", "digest", measured, remarks=("a remark",))
        assert (certificate["measured_agrees"], certificate["remarks"]) == (agrees, ["a remark"])


def maps(hidden, growth):
    plan, _ = plan_of(small_model("gpt2", ffn=128), {"hidden_size": hidden}, growth, 1)
    return {kind: axis_map.indices.tolist() for kind, axis_map in plan.maps.items()}


def test_maps_by_hand():
    """4 heads of 8 in the source; NAI copies the last n heads in order, FPI goes round from the first."""
    fpi, nai = maps(48, {"width": "fpi"}), maps(48, {"width": "nai"})
    assert fpi["heads"] == [0, 1, 2, 3, 0, 1]
    assert nai["heads"] == [0, 1, 2, 3, 2, 3]
    assert nai["residual"] == [*range(32), *range(16, 32)]
    assert nai["ffn"] == [*range(128), *range(64, 128)]
    assert fpi["residual"] == [*range(32), *range(16)]
    assert maps(88, {"width": "nai"})["heads"] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2]
    last = maps(48, {"width": "nai", "neighbours": "last"})
    assert last["heads"] == [0, 1, 2, 3, 3, 3]
    assert last["residual"] == [*range(32), *range(24, 32), *range(24, 32)]


def test_random_maps_keep_the_sources_own_indices():
    drawn = maps(96, {"width": "fpi", "map": "random"})
    assert drawn["residual"][:32] == list(range(32))
    assert drawn["heads"][:4] == [0, 1, 2, 3]
    assert len(set(drawn["residual"][32:])) > 10


@pytest.mark.parametrize(
    ("family", "growth", "words"),
    [
        ("llama", {"positions": "interpolate"}, "llama has no table of positions"),
        ("gpt2", {"width": "exact_aki", "symmetry": "paired", "noise": 0.1}, "exact_aki makes no copies of gpt2's channels"),
    ],
)
def test_an_option_without_anything_to_act_on_is_refused(family, growth, words):
    with pytest.raises(UserError, match=words):
        plan_of(small_model(family), {"hidden_size": 64}, growth)


def test_noise_lies_on_new_rows_and_columns_only():
    model = small_model("gpt2", ffn=128)
    quiet, noisy = (
        grown_tensors(plan_of(model, {"hidden_size": 64}, {"width": "nai", "noise": noise})[0], model) for noise in (0.0, 0.1)
    )
    name = "transformer.h.0.mlp.c_fc.weight"  # [in 64, out 256]
    difference = noisy[name] - quiet[name]
    assert (difference[:32, :128] == 0).all()
    # Noise comes before the 1/C of 2; the deviation of 12,288 draws is known to 0.6 %.
    new = torch.cat([difference[32:].flatten(), difference[:32, 128:].flatten()])
    assert new.std().item() == pytest.approx(0.1 * model.transformer.h[0].mlp.c_fc.weight.std().item() / 2, rel=0.04)


# --- what starts without moments ------------------------------------------------------------------


def adam(model, target, growth, left_out=()):
    """Return the grown Adam state of a source whose moments are ones at step 7."""
    plan, _ = plan_of(model, target, growth | {"optimizer_state": "grow"})
    kept = {"exp_avg": 1.0, "exp_avg_sq": 1.0}
    state = {
        name: {key: Constant(tensor.shape, value) for key, value in kept.items()} | {"step": 7.0}
        for name, tensor in state_of(model).items()
        if name not in left_out
    }
    return plan, grow_optimizer(plan, state)


@pytest.mark.parametrize(
    ("family", "target", "fresh", "kept"),
    [
        # Text within the old length never reaches repeated positions: borrowed momentum would move them all the same.
        ("gpt2", {"max_position_embeddings": 24}, {"transformer.wpe.weight": slice(16, 24)}, {"transformer.wpe.weight": 16}),
        # 4 query heads in 2 groups become 4 groups: the copies of a key serve different queries.
        (
            "llama",
            {"num_key_value_heads": 4},
            {f"model.layers.0.self_attn.{part}.weight": slice(None) for part in ("k_proj", "v_proj")},
            {"model.layers.0.self_attn.q_proj.weight": None},
        ),
        # Queries and keys that are normed, in wider heads.
        (
            "qwen3",
            {"head_dim": 16},
            {f"model.layers.0.self_attn.{part}.weight": slice(None) for part in ("q_proj", "k_proj", "q_norm", "k_norm")},
            {"model.layers.0.mlp.up_proj.weight": None},
        ),
    ],
)
def test_rows_whose_gradient_is_not_their_sources_start_without_moments(family, target, fresh, kept):
    _, grown = adam(small_model(family), target, {})
    for name, rows in fresh.items():
        assert not whole(grown[name]["step"])[rows].any() and not whole(grown[name]["exp_avg"])[rows].any(), name
    for name, first in kept.items():
        for key, value in (("step", 7.0), ("exp_avg", 1.0)):
            values = torch.as_tensor(whole(grown[name][key]))
            assert ((values[:first] if values.dim() else values) == value).all(), name


def test_a_tensor_that_was_never_stepped_starts_fresh_and_no_state_at_all_is_refused():
    model = small_model("gpt2")
    name = "transformer.h.1.mlp.c_fc.weight"
    _, grown = adam(model, {"hidden_size": 64}, {"width": "fpi"}, left_out=(name,))
    assert grown[name]["step"] == 0.0 and (whole(grown[name]["exp_avg_sq"]) == 0).all()
    with pytest.raises(UserError, match="needs the source's optimizer state"):
        adam(model, {"hidden_size": 64}, {"width": "fpi"}, left_out=tuple(state_of(model)))


@pytest.mark.parametrize(
    ("growth", "causes"),
    [
        ({"width": "fpi"}, []),
        ({"width": "fpi", "symmetry": "paired", "noise": 0.1}, ["copies whose symmetry noise breaks"]),
        ({"width": "exact_aki"}, ["readers of new channels enter the mean"]),
    ],
)
def test_moments_that_are_not_exact_say_why(growth, causes):
    plan, _ = adam(small_model("gpt2"), {"hidden_size": 64}, growth)
    predicted = predict_moments(plan)
    assert len(predicted) == len(causes) and all(cause in said for cause, said in zip(causes, predicted, strict=True))
