"""Growth against hand-computed matrices and against Hugging Face's own forward passes, in float64."""

import pytest
import torch

from data_prep.errors import UserError
from pipeline.families import AxisKind, target_config
from pipeline.growth.certificate import certify
from pipeline.growth.depth import layer_origins
from pipeline.growth.exactness import predict
from pipeline.growth.grown import GrownTensor
from pipeline.growth.huggingface import MappedTensor, open_huggingface
from pipeline.growth.initialization import initialized
from pipeline.growth.plan import GrowthPlan, plan_growth
from pipeline.growth.sides import Side
from pipeline.growth.state import Source, flat
from pipeline.recipe import GrowthConfig, TargetConfig

EXACT = 1e-12
"""Float64 logits of order 1 after a few dozen products differ by a few 1e-15; 1e-12 is far above and far below any effect."""


def grown_logits(plan: GrowthPlan, source: Source, config, input_ids):
    model = plan.family.model_class(config).double().eval()
    state = {name: tensor.rows(0, tensor.shape[0]) for name, tensor in plan.grow(source.state, torch.float64).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= set(plan.family.head_alias)
    model.tie_weights()
    return model(input_ids=input_ids).logits


def grow(model, tmp_path, target: dict, growth: dict, seed: int = 0):
    """Return (plan, logits of the source, logits of the grown model) on a fixed batch."""
    model.save_pretrained(tmp_path)
    source = open_huggingface(tmp_path)
    config = target_config(source.config, TargetConfig(**target))
    plan = plan_growth(source.config, config, GrowthConfig(**growth), seed)
    input_ids = torch.arange(32).reshape(2, 16) % model.config.vocab_size
    with torch.no_grad():
        return plan, model(input_ids=input_ids).logits, grown_logits(plan, source, config, input_ids)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("family", "target", "growth"),
    [
        ("gpt2", {"hidden_size": 64}, {}),
        ("bert", {"hidden_size": 64}, {}),
        ("gpt2", {"hidden_size": 96}, {}),
        ("bert", {"hidden_size": 96}, {}),
        ("gpt2", {"hidden_size": 64}, {"width": "nai"}),
        ("bert", {"hidden_size": 64}, {"width": "nai"}),
        ("gpt2", {"num_hidden_layers": 5}, {"depth": "last_layer"}),
        ("gpt2", {"hidden_size": 64, "num_hidden_layers": 7}, {"depth": "last_layer"}),
        ("gpt2", {"intermediate_size": 200}, {"map": "random"}),
        ("bert", {"intermediate_size": 200}, {"map": "random"}),
    ],
)
def test_growth_that_promises_to_preserve_the_function_does(tiny_model, tmp_path, family, target, growth, tied):
    plan, before, after = grow(tiny_model(family, tied=tied), tmp_path, target, growth)
    assert predict(plan) == []
    assert (before - after).abs().max() < EXACT


@pytest.mark.parametrize(
    ("family", "target", "growth", "reason"),
    [
        ("gpt2", {"hidden_size": 48}, {}, "counts 1 and 2"),
        ("bert", {"hidden_size": 48}, {}, "counts 1 and 2"),
        ("gpt2", {"hidden_size": 64}, {"map": "random"}, "under one LayerNorm"),
        ("bert", {"hidden_size": 48}, {"width": "nai"}, "counts 1 and 2"),
        ("gpt2", {"hidden_size": 64}, {"width": "nai", "noise": 0.02}, "noise of 0.02"),
        ("gpt2", {"num_hidden_layers": 5}, {"depth": "stack"}, "repeat the source's"),
        ("bert", {"num_hidden_layers": 5}, {"depth": "stack"}, "repeat the source's"),
        ("bert", {"num_hidden_layers": 5}, {"depth": "last_layer"}, "LN(LN(x))"),
    ],
)
def test_growth_that_changes_the_function_says_so(tiny_model, tmp_path, family, target, growth, reason):
    plan, before, after = grow(tiny_model(family), tmp_path, target, growth)
    assert (before - after).abs().max() > 1e-3
    (told,) = predict(plan)
    assert reason in told.cause
    certificate = certify(plan, "somewhere", "digest", {"max_logit_difference": 1.0, "dtype": "float64"})
    assert certificate["verdict"] != "exact"
    assert certificate["departures"] == [told.cause]


def test_fpi_of_a_small_matrix_by_hand():
    """bert2BERT eq. 7-8, on W [out 2, in 2], g_in = (0, 1, 0), g_out = (0, 1, 1)."""
    source = MappedTensor(torch.tensor([[2.0, 3.0], [4.0, 5.0]], dtype=torch.float64))
    rows = Side(torch.tensor([0, 1, 1]))
    columns = Side(torch.tensor([0, 1, 0]), scale=torch.tensor([0.5, 1.0, 0.5], dtype=torch.float64))
    grown = GrownTensor((), source, source, rows, columns, dtype=torch.float64)
    assert grown.rows(0, 3).tolist() == [[1.0, 3.0, 1.0], [2.0, 5.0, 2.0], [2.0, 5.0, 2.0]]


def maps(tiny_model, hidden, growth, intermediate=None):
    source = tiny_model("gpt2").config
    config = target_config(source, TargetConfig(hidden_size=hidden, intermediate_size=intermediate))
    return {kind: m.indices.tolist() for kind, m in plan_growth(source, config, GrowthConfig(**growth), 1).maps.items()}


def test_maps_by_hand(tiny_model):
    """4 heads of 8 in the source; NAI copies the last n heads in order, FPI goes round from the first."""
    fpi, nai = maps(tiny_model, 48, {}), maps(tiny_model, 48, {"width": "nai"})
    assert fpi[AxisKind.HEADS] == [0, 1, 2, 3, 0, 1]
    assert nai[AxisKind.HEADS] == [0, 1, 2, 3, 2, 3]
    assert nai[AxisKind.RESIDUAL] == [*range(32), *range(16, 32)]
    assert nai[AxisKind.FFN] == [*range(128), *range(64, 128)]
    assert fpi[AxisKind.RESIDUAL] == [*range(32), *range(16)]
    assert maps(tiny_model, 88, {"width": "nai"})[AxisKind.HEADS] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2]
    last = maps(tiny_model, 48, {"width": "nai", "neighbours": "last"})
    assert last[AxisKind.HEADS] == [0, 1, 2, 3, 3, 3]
    assert last[AxisKind.RESIDUAL] == [*range(32), *range(24, 32), *range(24, 32)]


def test_random_maps_keep_the_sources_own_indices(tiny_model):
    drawn = maps(tiny_model, 96, {"map": "random"})
    assert drawn[AxisKind.RESIDUAL][:32] == list(range(32))
    assert drawn[AxisKind.HEADS][:4] == [0, 1, 2, 3]
    assert len(set(drawn[AxisKind.RESIDUAL][32:])) > 10


def test_nai_refuses_an_axis_that_its_blocks_do_not_divide(tiny_model):
    with pytest.raises(UserError, match="the ffn axis grows 128 -> 196"):
        maps(tiny_model, 48, {"width": "nai"}, intermediate=196)


@pytest.mark.parametrize(
    ("depth", "source", "target", "origins", "silent"),
    [
        ({"depth": "stack"}, 3, 6, [0, 1, 2, 0, 1, 2], []),
        ({"depth": "stack"}, 3, 8, [0, 1, 2, 0, 1, 2, 1, 2], []),  # algorithm 1, line 7: the top L_t - k L_s layers
        ({"depth": "last_layer"}, 3, 5, [0, 1, 2, 2, 2], [3, 4]),
        ({"depth": "interleave"}, 3, 6, [0, 0, 1, 1, 2, 2], [1, 3, 5]),
        ({"depth": "interleave"}, 4, 6, [0, 0, 1, 2, 2, 3], [1, 4]),
        ({"depth": "random"}, 3, 5, [0, 1, 2, None, None], []),
        ({"depth": "list", "layers": [0, 1, 1, 2]}, 3, 4, [0, 1, 1, 2], []),
    ],
)
def test_depth_operators_by_hand(depth, source, target, origins, silent):
    layers = layer_origins(source, target, GrowthConfig(**depth))
    assert [layer.source for layer in layers] == origins
    assert [i for i, layer in enumerate(layers) if layer.silent] == silent


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
@pytest.mark.parametrize("growth", [{}, {"width": "nai", "noise": 0.1}])
def test_pieces_of_any_number_of_ranks_are_the_same_bits(tiny_model, tmp_path, ranks, growth):
    tiny_model("gpt2").float().save_pretrained(tmp_path)
    source = open_huggingface(tmp_path)
    config = target_config(source.config, TargetConfig(hidden_size=48, num_hidden_layers=5))
    plan = plan_growth(source.config, config, GrowthConfig(**growth), 2)
    for state in (plan.grow(source.state), initialized(source.family, config, 5)):
        for name, tensor in state.items():
            whole = tensor.rows(0, tensor.shape[0]).reshape(-1)
            size = -(-whole.numel() // ranks)
            pieces = [flat(tensor, r * size, min((r + 1) * size, whole.numel())) for r in range(ranks) if r * size < len(whole)]
            assert torch.equal(torch.cat(pieces), whole), name


def test_noise_lies_on_new_rows_and_columns_only(tiny_model, tmp_path):
    tiny_model("gpt2").save_pretrained(tmp_path)
    source = open_huggingface(tmp_path)
    config = target_config(source.config, TargetConfig(hidden_size=64))
    quiet, noisy = (
        plan_growth(source.config, config, GrowthConfig(width="nai", noise=noise), 2).grow(source.state) for noise in (0.0, 0.1)
    )
    name = "transformer.h.0.mlp.c_fc.weight"  # [in 64, out 256]
    difference = noisy[name].rows(0, 64) - quiet[name].rows(0, 64)
    assert (difference[:32, :128] == 0).all()
    source_std = source.state[name].rows(0, 32).std()
    # Noise comes before the 1/C of 2; the deviation of 12,288 draws is known to 0.6 %.
    new = torch.cat([difference[32:].flatten(), difference[:32, 128:].flatten()])
    assert new.std() == pytest.approx(0.1 * source_std.item() / 2, rel=0.04)
