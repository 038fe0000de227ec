"""A Trainer on made-up text, whose steps are taken one by one."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import torch

from pipeline.common import keyed
from pipeline.data.batches import Batches
from pipeline.data.objectives import CausalObjective, MaskedObjective
from pipeline.families import FAMILIES, scratch_config
from pipeline.growth.initialization import initialized
from pipeline.recipe import ModelConfig, Recipe
from pipeline.runs import JsonLines, StepLines
from pipeline.training import distributed
from pipeline.training.directory.checkpoints import Checkpoints, TrainState
from pipeline.training.ds_config import for_engine, sequence_parallel_size
from pipeline.training.engine import TrainedModel, build
from pipeline.training.loop.context import LoopContext
from pipeline.training.loop.data_watch import DataWatch, Remembered
from pipeline.training.loop.loop import Certification, Trainer
from pipeline.training.loop.records import Records
from pipeline.training.loop.tasks import Tasks
from pipeline.training.monitoring.monitors import Monitors
from pipeline.training.monitoring.progress import Progress
from pipeline.training.monitoring.utilization import Device
from pipeline.training.monitoring.watchdog import Watchdog
from pipeline.training.parameter_groups import cut
from pipeline.training.plan.training_plan import plan_training
from pipeline.training.plan.workload import Workload
from pipeline.training.sequence_parallel import SequenceGroup
from tests.benchmarks.made_up import batches
from tests.benchmarks.measuring import zero_json
from tests.shards import MemoryShard

LENGTH, SEQUENCES, VOCABULARY, MASK = 16, 2, 100, 99


@contextmanager
def trainer(
    family_name: str,
    stage: int,
    *,
    half: bool = True,
    layers: int = 2,
    steps: int = 8,
    ds_config: dict[str, object] | None = None,
    model: dict[str, object] | None = None,
    window: int | None = None,
    apart: bool = False,
    checkpointed: bool = False,
    compiled: bool = False,
    fused: bool = False,
    padded: int = 1,
    **changes: object,
) -> Iterator[Trainer]:
    """Yield the trainer of a small model, of `steps` steps of two micro-batches a rank; `changes` are of the recipe."""
    family, ranks = FAMILIES[family_name], distributed.world_size()
    sizes = {"hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2}
    described = {"family": family_name} | sizes | (model or {})
    config = scratch_config(ModelConfig(**described), VOCABULARY, 0, LENGTH)
    config.sliding_window = window if hasattr(config, "sliding_window") else None
    changes.setdefault("evaluation", {"every": 1000, "windows": 4})
    recipe = Recipe(
        run_dir="unused",
        data={"shards": "unused", "sequence_length": LENGTH},
        source={"model": described, "steps": steps},
        target={"hidden_size": 16},
        stages=[{"name": "unused", "steps": 1}],
        **changes,
    )
    batch = {"train_batch_size": 2 * SEQUENCES * ranks, "gradient_accumulation_steps": 2}
    ds_config = zero_json(stage, SEQUENCES, ranks, half=half) | batch | (ds_config or {})
    options = {
        "activation_checkpointing": checkpointed,
        "compile": compiled,
        "fused_linear_cross_entropy": fused,
        "make_vocab_size_divisible_by": padded,
    }
    state, engine = initialized(family, config, 1), for_engine(ds_config, ranks)
    model = build(family, config, state, engine, recipe.optimizer, cut(layers, []), "sdpa", **options)
    model.sequences = SequenceGroup.joined(sequence_parallel_size(ds_config))
    objective = CausalObjective(LENGTH)
    if family.objective == "mlm":
        objective = MaskedObjective(LENGTH, VOCABULARY, 1, MASK, (0, 1, MASK))
    text = MemoryShard(2 + keyed.below(("text",), 0, 4000, VOCABULARY - 3), range(0, 4000, 7))
    loaded = batches([text], objective, within_documents=apart)
    with tempfile.TemporaryDirectory() as directory:
        made = trainer_of(recipe, model, loaded, ds_config, Path(directory))
        made.steps.begin_stage(*made.context.plan.stages[:1])
        made.steps._peaks = dict.fromkeys(model.parameter_groups, 1e-3)
        yield made
        made.steps.wait_for_reader()
        model.close()


def trainer_of(recipe: Recipe, model: TrainedModel, loaded: Batches, ds_config: dict[str, object], directory: Path) -> Trainer:
    """Return what trains a model by a recipe's source section on some text, and leaves its records in a directory."""
    configs = {0: model.config, 1: model.config}
    training_plan = plan_training(recipe, configs, lambda _: len(loaded), ds_config, distributed.world_size())
    records = Records(
        StepLines(directory / "metrics.jsonl"),
        JsonLines(directory / "eval.jsonl", dict),
        JsonLines(directory / "scores.jsonl", dict),
        Progress(Workload(recipe, training_plan, configs.__getitem__), 0, shown=False),
        Device.of_all_ranks(torch.float32, given_tflops=1.0),
        Monitors.opened({}, directory, 0),
    )
    mixes = SimpleNamespace(training=lambda _: loaded, heldout=loaded)
    watch = DataWatch(SimpleNamespace(left=[], whole=[]), directory / "checked.json", Remembered())
    stop = SimpleNamespace(asked=False, defer=lambda: None)
    checkpoints = Checkpoints(directory / "checkpoints", recipe.checkpointing)
    of_run = recipe, training_plan, mixes, watch, Tasks(recipe, None), stop, checkpoints
    return Trainer(0, model, LoopContext(*of_run, Watchdog(1800), records, TrainState()), Certification())


def take_step(made: Trainer) -> None:
    """Launch the next step of the only stage."""
    made.steps.launch()
