"""What a rank computes of its own piece is, bit for bit, what one process computes of the whole."""

import math

import pytest
import torch

from pipeline.common import keyed
from pipeline.growth.grown_tensor import GrownTensor
from pipeline.growth.huggingface import MappedTensor
from pipeline.growth.optimizer_growth import grow_optimizer
from pipeline.growth.partitioned import PartitionedTensor, TensorSlice
from pipeline.growth.state import flat
from tests.pipeline.growth.models import plan_of, small_model, state_of

RANKS = (1, 2, 3, 4, 7)

GROWTHS = {
    "fpi": {"width": "fpi"},
    "fpi, random map": {"width": "fpi", "map": "random"},
    "fpi, paired": {"width": "fpi", "symmetry": "paired", "noise": 0.3},
    "fpi, split": {"width": "fpi", "symmetry": "split", "noise": 0.3},
    "aki": {"width": "aki"},
    "nai": {"width": "nai"},
    "nai, noise": {"width": "nai", "noise": 0.1},
    "nai, last": {"width": "nai", "neighbours": "last"},
    "nai, paired": {"width": "nai", "symmetry": "paired", "noise": 0.3},
    "nai, paper factor": {"width": "nai", "paper_factor": True},
    "direct copy": {"width": "direct_copy", "vocabulary": "random"},
    "zero pad": {"width": "zero_pad", "noise": 0.1},
    "zero pad, scaled": {"width": "zero_pad", "scaled": True},
    "average pad": {"width": "average_pad"},
    "average pad, paired": {"width": "average_pad", "symmetry": "paired", "noise": 0.3},
    "average pad, split": {"width": "average_pad", "symmetry": "split", "noise": 0.3},
    "sqrt count": {"width": "sqrt_count"},
    "sqrt count, split": {"width": "sqrt_count", "symmetry": "split", "noise": 0.3},
    "hypercloning": {"width": "hypercloning"},
    "exact aki": {"width": "exact_aki"},
    "average pad, layers that write nothing": {"width": "average_pad", "depth": "last_layer"},
}
INTERPOLATED = {"interpolated positions": {"width": "fpi", "positions": "interpolate"}}
"""Of tables of positions; rotary ones have none."""
# Sizes that no number of ranks divides.
TARGETS = {
    "gpt2": {"hidden_size": 40, "num_hidden_layers": 3, "vocab_size": 53, "max_position_embeddings": 21},
    "bert": {"hidden_size": 40, "num_hidden_layers": 3, "vocab_size": 53, "max_position_embeddings": 21},
    "qwen3": {"hidden_size": 48, "head_dim": 16, "num_attention_heads": 6, "num_hidden_layers": 3, "vocab_size": 53},
}
WHOLE_COPIES = {"hypercloning", "sqrt count", "sqrt count, split"}


def grown_by(family, name, **options):
    model = small_model(family, hidden=16, layers=2, ffn=24)
    target = TARGETS[family]
    if name in WHOLE_COPIES and (family == "bert" or name == "hypercloning"):
        target = target | {"hidden_size": 48, "intermediate_size": 48}
    elif "nai" in name:
        target = target | {"intermediate_size": 56}
    return model, plan_of(model, target, {"depth": "stack"} | (GROWTHS | INTERPOLATED)[name] | options, 5)[0]


def in_pieces(tensor, ranks):
    """The tensor as DeepSpeed cuts it: ceil(numel / ranks) elements of the flattened whole a rank."""
    size = torch.Size(tensor.shape).numel()
    piece = -(-size // ranks)
    return torch.cat(
        [flat(tensor, rank * piece, min((rank + 1) * piece, size)) for rank in range(ranks) if rank * piece < size]
    )


def assert_same_in_pieces(tensor, name):
    whole = tensor.rows(0, tensor.shape[0]).reshape(-1)
    for ranks in RANKS:
        assert torch.equal(in_pieces(tensor, ranks), whole), f"{name} on {ranks} ranks"


SOURCES = [("gpt2", torch.float32), ("gpt2", torch.bfloat16), ("bert", torch.bfloat16), ("qwen3", torch.float32)]


@pytest.mark.parametrize(
    ("family", "dtype", "growth"),
    [(*source, growth) for source in SOURCES for growth in GROWTHS]
    + [(*source, growth) for source in SOURCES[:3] for growth in INTERPOLATED],
)
def test_weights(family, growth, dtype):
    model, plan = grown_by(family, growth)
    state = {name: MappedTensor(tensor.rows(0, tensor.shape[0]).to(dtype)) for name, tensor in state_of(model).items()}
    for name, tensor in plan.grow(state).items():
        assert tensor.rows(0, 1).dtype == torch.float32
        assert_same_in_pieces(tensor, name)


@pytest.mark.parametrize(
    ("family", "growth", "new"),
    [(family, growth, "auto") for family in TARGETS for growth in GROWTHS]
    + [("gpt2", growth, "auto") for growth in INTERPOLATED]
    + [("gpt2", "aki", "copied"), ("qwen3", "fpi, paired", "copied"), ("qwen3", "exact aki", "scaled")],
)
def test_adam(family, growth, new):
    model, plan = grown_by(family, growth, optimizer_state="grow", element_rates=True, new_moments=new)
    generator = torch.Generator().manual_seed(1)
    optimizer = {
        name: {
            "exp_avg": MappedTensor(torch.randn(tensor.shape, generator=generator)),
            "exp_avg_sq": MappedTensor(torch.rand(tensor.shape, generator=generator)),
            "step": 7.0,
        }
        for name, tensor in state_of(model).items()
    }
    keys = set()
    for name, entry in grow_optimizer(plan, optimizer).items():
        for key, value in entry.items():
            keys.add(key)
            if not isinstance(value, float):
                assert value.shape == plan.initial[name].shape
                assert_same_in_pieces(value, f"{name}: {key}")
    assert keys == {"exp_avg", "exp_avg_sq", "step", "lr_factor", "eps_factor"}


def test_initial_values():
    """The random values that operators draw on are themselves the same in pieces."""
    _, plan = grown_by("gpt2", "direct copy")
    assert set(plan.initial) == set(plan.tensors)
    for name, tensor in plan.initial.items():
        assert_same_in_pieces(tensor, name)


@pytest.mark.parametrize(("start", "stop"), [(0, 224), (213, 214), (-1, 2), (5, 4), (300, 300)])
def test_rows_that_a_partitioned_tensor_has_not_are_an_error_and_no_memory_that_nothing_wrote(start, stop):
    whole = torch.arange(213 * 4, dtype=torch.float32).reshape(213, 4)
    tensor = PartitionedTensor(
        (213, 4), [TensorSlice(0, 500, whole.flatten()[:500]), TensorSlice(500, 852, whole.flatten()[500:])]
    )
    assert torch.equal(tensor.rows(0, 213), whole) and tensor.rows(213, 213).shape == (0, 4)
    with pytest.raises(IndexError, match=rf"rows {start} to {stop} of a tensor of shape \(213, 4\)"):
        tensor.rows(start, stop)


@pytest.mark.parametrize(
    ("growth", "of_all"),
    [({"width": "direct_copy", "vocabulary": "random"}, True), ({"width": "zero_pad", "noise": 0.1}, False)],
)
@pytest.mark.parametrize("family", TARGETS)
def test_only_new_rows_and_columns_are_drawn(family, growth, of_all, monkeypatch):
    """Every element once, and none in the place of one that is copied."""
    model = small_model(family, hidden=16, layers=2, ffn=24)
    plan = plan_of(model, TARGETS[family], {"depth": "stack"} | growth, 5)[0]
    drawn = []

    def watched(key, rows, columns, width, draw=keyed.normal_block):
        drawn.append((rows[1] - rows[0]) * (columns[1] - columns[0]))
        return draw(key, rows, columns, width)

    monkeypatch.setattr(keyed, "normal_block", watched)
    for name, tensor in plan.grow(state_of(model)).items():
        drawn.clear()
        values = tensor.rows(0, tensor.shape[0])
        copied = sum(run.stop - run.start for run in tensor.row_map.runs if run.code == 0)
        across = sum(run.stop - run.start for run in tensor.column_map.runs if run.code == 0)
        if len(tensor.shape) == 1:
            assert sum(drawn) == 0, name
        else:
            assert sum(drawn) <= values.numel() - copied * across, name
            assert not of_all or sum(drawn) == values.numel() - copied * across, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("growth", ["nai, noise", "nai, paired", "fpi, paired", "fpi, split", "average pad, paired"])
@pytest.mark.parametrize("family", TARGETS)
def test_noise_is_to_the_last_bit_what_its_formula_gives(family, growth, dtype):
    """Every product a tensor of its own, none of them skipped: a seed stands for the same weights whatever computes them."""
    model, plan = grown_by(family, growth)
    state = {name: MappedTensor(tensor.rows(0, tensor.shape[0]).to(dtype)) for name, tensor in state_of(model).items()}
    disturbed = 0
    for name, tensor in plan.grow(state, dtype).items():
        noise = plan.noise_of(plan.tensors[name])
        if noise is None:
            continue
        rows, columns = tensor.row_map, tensor.column_map
        made_of = tensor.key, tensor.own, tensor.following, (rows, columns)
        plain = GrownTensor(*made_of, dtype=dtype, init=plan.initial[name], small=noise.share).rows(0, len(rows))
        whole = math.prod(tensor.shape)
        draw = keyed.normal if noise.kind != "split" else lambda *where: 2.0 * keyed.uniform(*where) - 1.0
        values = torch.from_numpy(draw(tensor.key, 0, whole)).reshape(tensor.shape).double()
        none, ones = torch.zeros(1, dtype=torch.bool), torch.ones(1, dtype=torch.float64)
        if noise.kind == "new":
            new = [none.expand(len(side)) if side.repeats is None else side.repeats for side in (rows, columns)]
            values = values * (new[0][:, None] | new[1])
        else:
            first, sign = (columns if noise.pair_axis == 1 else rows).pairs
            values = values[:, first] * sign if noise.pair_axis == 1 else values[first] * sign[:, None]
        copied = (rows.indices[:, None] >= 0) & (columns.indices >= 0)
        scale = [ones.expand(len(side)) if side.scale is None else side.scale for side in (rows, columns)]
        if noise.kind == "split":
            expected = plain * (1.0 + noise.share * copied * values).to(dtype)
        else:
            product = copied * values * (scale[0][:, None] * scale[1]) * (noise.share * tensor.own.std)
            expected = plain + product.to(dtype)
        found = tensor.rows(0, len(rows))
        assert torch.equal(found.view(torch.uint8), expected.view(torch.uint8)), name
        disturbed += not torch.equal(found, plain)
    assert disturbed
