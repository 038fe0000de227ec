"""Whole runs on a GPU: bf16, fp16 with loss scaling and fp32, under every ZeRO stage that partitions."""

import json
import math

import pytest
import torch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

PRECISIONS = {"bf16": {"bf16": {"enabled": True}}, "fp16": {"fp16": {"enabled": True, "initial_scale_power": 8}}, "fp32": {}}


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_growth_and_both_stages_run_on_a_gpu(launch, recipe, tmp_path, precision, stage):
    ds_config = PRECISIONS[precision] | {"zero_optimization": {"stage": stage}}
    path = recipe(target={"hidden_size": 64, "num_hidden_layers": 4}, growth={"width": "fpi", "depth": "last_layer"})
    (tmp_path / "ds.json").write_text(json.dumps(ds_config))
    words = [
        "deepspeed",
        "--num_gpus",
        "1",
        "launch/pretrain.py",
        "--ds_config",
        str(tmp_path / "ds.json"),
        "--recipe",
        str(path),
    ]
    finished = launch.command(words, tmp_path / "run", accelerator="cuda").wait()
    assert finished.status == 0, finished.error
    growth = finished.summary["growths"][0]
    assert growth["verdict"] == "exact" and growth["measured_agrees"]
    assert all(math.isfinite(loss) for loss in finished.losses)
    assert finished.summary["losses"]["final"] < finished.summary["losses"]["source"]
    assert finished.summary["peak_memory"][0]["device_gib"] > 0
