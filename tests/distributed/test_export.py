"""A trained model through launch/grow.py into transformers: its logits are the engine's, whatever wrote the checkpoint."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from pipeline.families import ActiveLayers
from pipeline.growth.offline import OfflineGrowth, Request
from pipeline.recipe import CheckpointingConfig, GrowthConfig, TargetConfig
from pipeline.training.directory.checkpoints import Checkpoints, TrainState
from pipeline.training.parameter_groups import cut
from tests.distributed.engines import built, engine_config, train_step
from tests.distributed.test_freezing import LAYERS, LENGTH, OPTIMIZER, VOCAB, model_config
from tests.ranks import run_ranks

BATCH = 4
FEW = [("gpt2", 1, False), ("llama", 3, False)]
CASES = [*FEW, ("gpt2", 3, False), ("bert", 2, False), ("gpt2", 3, True)]
"""Family, ZeRO stage, bfloat16."""


def tokens() -> torch.Tensor:
    return torch.randint(0, VOCAB, (BATCH, LENGTH), generator=torch.Generator().manual_seed(7))


def train_and_save(folder: Path, cases: list[tuple[str, int, bool]]) -> dict[str, torch.Tensor]:
    """Train each case for three steps and save it; return the engine's logits of all windows, by case."""
    logits = {}
    for case in cases:
        name, stage, half = case
        trained = built(model_config(name, True), engine_config(stage, BATCH, bf16=half), OPTIMIZER, cut(LAYERS, []))
        for _ in range(3):
            train_step(trained, tokens(), tokens(), ActiveLayers.whole(LAYERS))
        checkpoints = Checkpoints(folder / folder_of(case), CheckpointingConfig())
        checkpoints.save(trained, TrainState(1, 3), must=True)
        trained.module.eval()
        with torch.no_grad():
            logits[folder_of(case)] = trained.logits(tokens()).tokens.float()
        trained.close()
    return logits


def folder_of(case: tuple[str, int, bool]) -> str:
    name, stage, half = case
    return f"{name}-zero{stage}{'-bf16' if half else ''}"


@pytest.mark.parametrize(
    ("ranks", "cases"), [(2, FEW), *(pytest.param(ranks, CASES, marks=pytest.mark.full) for ranks in (1, 2, 4))]
)
def test_an_exported_checkpoint_gives_the_engines_logits_in_transformers(tmp_path, ranks, cases):
    for case in cases:
        (tmp_path / folder_of(case)).mkdir()
    expected = run_ranks(train_and_save, ranks, tmp_path, cases)[0]
    for case in cases:
        name, _, half = case
        out = tmp_path / f"{folder_of(case)}-exported"
        request = Request(tmp_path / folder_of(case), TargetConfig(dropout=None), GrowthConfig(), 0, "hf", "float32", None, out)
        OfflineGrowth(request).execute(lambda certificate: {})
        loader = AutoModelForMaskedLM if name == "bert" else AutoModelForCausalLM
        # The masters are float32 in any case; under bf16 the engine multiplies with them rounded.
        model = loader.from_pretrained(out, dtype=torch.bfloat16 if half else torch.float32, attn_implementation="sdpa").eval()
        with torch.no_grad():
            found = model(input_ids=tokens()).logits.float()
        # The same class, weights and operations, and 0 is seen. Another processor may sum in another order: 1e-6 of logits
        # around 1; in bfloat16 that may move a rounding, by 2^-8 of its value.
        tolerance = 2e-2 if half else 1e-5
        assert (found - expected[folder_of(case)]).abs().max() < tolerance, case
        assert expected[folder_of(case)].abs().max() > 0.05, "trained logits differ from nought"
