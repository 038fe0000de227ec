"""Trainings of a few steps that go on from checkpoints, of every ZeRO stage."""

import pytest
import torch

from pipeline.deepspeed.loss_scale import restore_counters_and_scale
from pipeline.families import FAMILIES, ActiveLayers
from pipeline.growth.added_steps import ADDED_STEPS_LEFT
from pipeline.growth.initialization import initialized
from pipeline.recipe import CheckpointingConfig
from pipeline.recipe.growth import AddedConfig
from pipeline.training.directory.checkpoints import Checkpoints, TrainState
from pipeline.training.engine import build
from tests.distributed.engines import SEED, drawn_batches, engine_config, train_step
from tests.distributed.test_freezing import GROUPS, LAYERS, LENGTH, OPTIMIZER, PER_BLOCK, VOCAB, model_config

FAMILY = FAMILIES["gpt2"]
FULL = pytest.mark.full
BATCH = 6

DEPTHS = [2, 4, None, 2, 2, None, 4, None]
"""Two steps of each of four walks: the groups' step counts differ all along, and some begin late."""
READ_DEPTHS = [2, 4, None, 2]
ADDED = AddedConfig(warmup_steps=3, lr_ratio=2.0, decay_steps=2)
"""Over within the walk for some of the layers that were added, and not for others."""

OFFLOAD = {"device": "cpu", "pin_memory": False}
LAYOUTS = {
    "zero0": {"stage": 0},
    "zero1": {"stage": 1},
    "zero2": {"stage": 2},
    "zero3": {"stage": 3},
    "zero1-bf16": {"stage": 1},
    "zero1-bf16-summed-in-fp32": {"stage": 1},
    "zero2-bf16": {"stage": 2},
    # Several masters to a group.
    "zero3-bf16": {"stage": 3, "sub_group_size": 3000},
    "zero2-offload": {"stage": 2, "offload_optimizer": OFFLOAD},
    "zero3-offload": {"stage": 3, "offload_optimizer": OFFLOAD, "offload_param": OFFLOAD},
}
FEW = ["zero1", "zero3"]
"""The layouts that `make test` reads; `make test-full` reads all."""


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return drawn_batches(13, len(DEPTHS), BATCH, LENGTH, VOCAB)


def ds_config(layout: str, accumulation: int) -> dict:
    dtypes = {"grad_accum_dtype": "fp32" if "summed" in layout else None}
    others = {"gradient_clipping": OPTIMIZER.gradient_clipping, "data_types": dtypes}
    return engine_config(LAYOUTS[layout], BATCH, bf16="bf16" in layout, accumulation=accumulation, **others)


class Filled:
    """A tensor whose first rows hold one value and whose others another."""

    def __init__(self, shape, first, other):
        self.shape, self._first, self._other = shape, first, other

    def rows(self, start, stop):
        old = torch.arange(start, stop) < self.shape[0] // 2
        values = torch.where(old, self._first, self._other)
        return values.reshape(-1, *[1] * (len(self.shape) - 1)).expand(stop - start, *self.shape[1:]).float()


def mixed_state(state) -> dict:
    """What growth may leave: old and new elements in a tensor, others old throughout or new throughout.

    Two layers only have factors, so that some ranks know of them and others do not.
    """
    kept = {}
    for number, (name, rows) in enumerate(state.items()):
        if number % 3 == 0 and (".0." in name or ".3." in name):
            kept[name] = {
                "step": Filled(rows.shape, 7.0, 0.0),
                "exp_avg": Filled(rows.shape, 1e-3, 0.0),
                "exp_avg_sq": Filled(rows.shape, 1e-4, 0.0),
                "lr_factor": Filled(rows.shape, 1.0, 0.5),
                "eps_factor": 2.0,
            }
        elif number % 3 == 1:
            kept[name] = {"step": 7.0, "exp_avg": 1e-3, "exp_avg_sq": 1e-4}
        elif ".1." in name:
            # Of a fresh state: what was added is known, and nothing else.
            kept[name] = {ADDED_STEPS_LEFT: Filled(rows.shape, 0.0, float(ADDED.steps))}
        elif ".2." in name:
            kept[name] = {ADDED_STEPS_LEFT: float(ADDED.steps), "step": 7.0, "exp_avg": 1e-3, "exp_avg_sq": 1e-4}
    return kept


def take_step(trained, depth: int | None, inputs, labels, accumulation: int = 1) -> float:
    """Train the full model, or the top of a sub-model; return the loss over all ranks."""
    active = ActiveLayers.whole(LAYERS) if depth is None else ActiveLayers.top(depth, PER_BLOCK)
    return train_step(trained, inputs, labels, active, accumulation)


def walk(folder, layout: str, begin: int, end: int, mixed: bool, depths=DEPTHS, accumulation: int = 1):
    """Go on from the newest checkpoint in `folder`, or begin; return the losses and the trained model."""
    checkpoints = Checkpoints(folder, CheckpointingConfig(keep=9))
    saved = checkpoints.newest_whole()
    config = model_config("gpt2", True)
    if saved is None:
        state = initialized(FAMILY, config, SEED)
        kept = mixed_state(state) if mixed else None
    else:
        source = checkpoints.open(saved)
        state, kept = source.state, source.optimizer
    trained = build(FAMILY, config, state, ds_config(layout, accumulation), OPTIMIZER, GROUPS, "sdpa", kept)
    trained.optimizer.added = ADDED
    if saved is not None:
        restore_counters_and_scale(trained.engine, saved.counters, saved.loss_scale)
    assert trained.engine.global_steps == begin
    steps = list(zip(depths, batches(), strict=False))[begin:end]
    losses = [take_step(trained, depth, inputs, labels, accumulation) for depth, (inputs, labels) in steps]
    checkpoints.save(trained, TrainState(1, end), must=True)
    return losses, trained


def close(walked) -> list[float]:
    """Return the losses of a walk, whose engine is ended."""
    losses, trained = walked
    trained.close()
    return losses
