"""The rules by which ZeRO divides parameters, against where DeepSpeed's engines have put their values."""

import torch

from pipeline.deepspeed.engine import initialize, partitioned_construction
from pipeline.deepspeed.masters import masters_of
from pipeline.deepspeed.zero_layout import PartitionSlice, group_slices, partition_bounds, partition_size
from tests.distributed.engines import engine_config
from tests.ranks import run_ranks

CASES = {
    "stage 1": ({"stage": 1}, {}),
    "stage 1, summed in fp32": ({"stage": 1}, {"data_types": {"grad_accum_dtype": "fp32"}}),
    "stage 2, aligned": ({"stage": 2, "parameter_alignment": True}, {}),
    "stage 2, round robin": ({"stage": 2, "round_robin_gradients": True}, {}),
    "stage 3": ({"stage": 3, "sub_group_size": 40}, {}),
}
NUMELS = {"0.weight": 15, "0.bias": 5, "1.weight": 35, "1.bias": 7}


def divided(zero, others) -> dict[str, tuple[int, int]]:
    """Hold the masters of a new engine against its weights; return the elements that this rank has, by name."""
    config = engine_config(zero, 3, bf16=True, **others)
    with partitioned_construction(config, partitioned=zero["stage"] == 3):
        model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 7))
    engine = initialize(model, config, torch.optim.AdamW(model.parameters(), fused=True), "0")
    named, found = dict(model.named_parameters()), {}
    for master in masters_of(engine):
        for held in master.slices:
            found[held.name] = held.start, held.stop
            weight = named[held.name]
            if zero["stage"] == 3:
                assert weight.ds_tensor.numel() == partition_size(NUMELS[held.name], 3)
                expected = weight.ds_tensor[: held.numel]
            else:
                expected = weight.view(-1)[held.start : held.stop]
            assert torch.equal(master.values[held.place : held.end], expected.float()), held
    return found


def divided_in_each_case() -> list[dict[str, tuple[int, int]]]:
    return [divided(*case) for case in CASES.values()]


def test_engines_are_divided_as_the_rules_say():
    for case, *rows in zip(CASES, *run_ranks(divided_in_each_case, 3), strict=True):
        for name, numel in NUMELS.items():
            bounds = sorted(row[name] for row in rows if name in row and row[name][0] < row[name][1])
            assert [begin for begin, _ in bounds] == [0, *(end for _, end in bounds[:-1])], (case, name)
            assert bounds[-1][1] == numel, (case, name)


def test_partitions_by_hand():
    assert [partition_bounds(7, rank, 3) for rank in range(4)] == [(0, 3), (3, 6), (6, 7), (7, 7)]
    assert [partition_bounds(1, rank, 3) for rank in range(3)] == [(0, 1), (1, 1), (1, 1)]
    a, b, c = PartitionSlice("a", 0, 3, 0), PartitionSlice("b", 0, 1, 3), PartitionSlice("b", 1, 4, 0)
    assert list(group_slices([("a", 3), ("b", 4)], 0, 4)) == [a, b]
    assert list(group_slices([("a", 3), ("b", 4)], 1, 4)) == [c]
    assert list(group_slices([("a", 3), ("b", 4)], 1, 4, alignment=4)) == [PartitionSlice("b", 0, 4, 0)]
    assert (b.numel, b.end) == (1, 4)
