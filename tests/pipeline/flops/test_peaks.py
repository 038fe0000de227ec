"""The peak that utilization is a share of."""

import pytest
import torch

from pipeline.flops.peaks import Peak, device_peak, find_peak, measured_peak

HALF, SINGLE = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("name", "half", "single"),
    [
        # Names as torch.cuda.get_device_name has them. Streaming multiprocessors (compute units) x FLOPs a clock x boost
        # clock, from the makers' descriptions of the chips, not from the data sheets.
        ("NVIDIA H100 80GB HBM3", 132 * 4096 * 1.830e9, 132 * 256 * 1.980e9),
        ("NVIDIA H100 PCIe", 114 * 4096 * 1.620e9, 114 * 256 * 1.755e9),
        ("NVIDIA H200", 132 * 4096 * 1.830e9, 132 * 256 * 1.980e9),
        ("NVIDIA A100-SXM4-80GB", 108 * 2048 * 1.410e9, 108 * 128 * 1.410e9),
        ("A100-PCIE-40GB", 108 * 2048 * 1.410e9, 108 * 128 * 1.410e9),
        ("NVIDIA L40S", 142 * 1024 * 2.520e9, 142 * 256 * 2.520e9),
        ("AMD Instinct MI300X", 304 * 2048 * 2.100e9, 304 * 256 * 2.100e9),
    ],
)
def test_the_data_sheets_agree_with_the_chips(name, half, single):
    # The sheets round, and NVIDIA's clocks for L40S are given to 1 %.
    assert device_peak(name, HALF) == pytest.approx(half, rel=0.015)
    assert device_peak(name, torch.float16) == device_peak(name, HALF)
    assert device_peak(name, SINGLE) == pytest.approx(single, rel=0.015)


@pytest.mark.parametrize(
    "name", ["NVIDIA H100 80GB HBM3 MIG 1g.10gb", "GRID A100-10C", "NVIDIA A100X", "NVIDIA GeForce RTX 4090"]
)
def test_what_no_sheet_is_at_hand_for_is_not_known(name):
    assert device_peak(name, HALF) is None


def test_a_precision_that_no_sheet_gives_is_not_known():
    assert device_peak("NVIDIA H200", torch.float64) is None


@pytest.fixture
def tf32():
    """Products of float32 may use TF32, for one test."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


def test_single_precision_is_the_vector_units_unless_torch_is_told_otherwise():
    assert device_peak("NVIDIA A100-SXM4-80GB", SINGLE) == 19.5e12


def test_single_precision_is_tf32_where_torch_is_told_so(tf32):
    assert device_peak("NVIDIA A100-SXM4-80GB", SINGLE) == 156e12


def test_a_cpu_is_measured():
    peak = find_peak(torch.device("cpu"), SINGLE, None)
    assert peak.origin == "measured"
    # Any core that runs torch does more than a billion, and no machine's all more than a quadrillion.
    assert 1e9 < peak.flops_per_second < 1e15
    assert measured_peak(torch.device("cpu"), HALF) > 0


def test_the_recipe_knows_best():
    assert find_peak(torch.device("cpu"), SINGLE, 312.0) == Peak(312e12, "recipe")


def test_utilization_is_the_share_of_all_ranks_peak():
    assert Peak(100.0, "recipe").utilization(model_flops=600, seconds=4.0, ranks=3) == 0.5
