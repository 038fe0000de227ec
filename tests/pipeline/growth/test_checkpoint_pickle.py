import argparse

import numpy as np
import torch

from pipeline.growth.checkpoint_pickle import load


def test_what_a_library_has_allowed_torch_to_make_changes_nothing(tmp_path):
    """megatron-core, for instance, allows numpy's dtype, whose objects torch then makes and cannot fill."""
    torch.save({"args": argparse.Namespace(rate=np.float64(1e-3)), "step": 7}, tmp_path / "x.pt")
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([np.dtype, argparse.Namespace])
    try:
        content = load(tmp_path / "x.pt")
        assert set(torch.serialization.get_safe_globals()) == {np.dtype, argparse.Namespace}
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
    assert content["step"] == 7 and not isinstance(content["args"], argparse.Namespace)
