"""Growth into live ZeRO-3 partitions beside the same engine on fresh random weights: memory and time up to the first step."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed import DeepSpeedEngine
from transformers import PretrainedConfig

from pipeline.common import keyed
from pipeline.data.objectives import CausalObjective
from pipeline.families import Family, target_config
from pipeline.growth.plan import GrowthPlan, plan_growth
from pipeline.growth.sources import open_source
from pipeline.growth.state import Source
from pipeline.recipe import GrowthConfig, OptimizerConfig, TargetConfig
from pipeline.training import distributed
from pipeline.training.certifying.measure import Text, measure_grown, measure_growth
from pipeline.training.engine import TrainedModel, build
from pipeline.training.loop.evaluate import heldout_loss
from pipeline.training.loop.running import scoring
from pipeline.training.losses import Logits, logits_of
from pipeline.training.optimizer import build_optimizer, optimizer_groups
from pipeline.training.parameter_groups import cut
from tests.benchmarks.made_up import batches
from tests.benchmarks.measuring import Cost, zero_json
from tests.benchmarks.memory import Watched
from tests.ranks import run_ranks
from tests.shards import MemoryShard

_LENGTH = 128
_VOCABULARY = 50257


def planned(directory: Path, layers: int, hidden: int) -> tuple[Source, PretrainedConfig, GrowthPlan]:
    """Return the source in `directory` and its growth by FPI and zero-output layers, without noise."""
    source = open_source(directory)
    config = target_config(source.config, TargetConfig(hidden_size=hidden, num_hidden_layers=layers))
    return source, config, plan_growth(source.config, config, GrowthConfig(width="fpi", depth="last_layer"), 1)


def fresh_engine(family: Family, config: PretrainedConfig, ds_config: dict[str, Any]) -> DeepSpeedEngine:
    """Return an engine as a script starts it: DeepSpeed's zero.Init, and Hugging Face's own initialization in it."""
    with deepspeed.zero.Init(config_dict_or_path=ds_config):
        model = family.model_class(config)
    graph = family.graph(config)
    groups = optimizer_groups(model, graph, cut(config.num_hidden_layers, []), OptimizerConfig())
    optimizer = build_optimizer(graph, groups, OptimizerConfig(), ds_config)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=ds_config)
    return engine


def grown_model(source: Source, config: PretrainedConfig, plan: GrowthPlan, ds_config: dict[str, Any]) -> TrainedModel:
    groups = cut(config.num_hidden_layers, [])
    return build(source.family, config, plan.grow(source.state), ds_config, OptimizerConfig(), groups, "sdpa")


def start(directory: Path, layers: int, hidden: int, fresh: bool) -> Cost:
    """Return what starting one engine costs on this rank, up to its first step; the peak is over what the process held before.

    A fresh one is evaluated on held-out text, a grown one is measured beside its source on the same.
    """
    source, config, plan = planned(directory, layers, hidden)
    # Text that says nothing, two windows a rank.
    windows = 2 * distributed.world_size()
    heldout = batches([MemoryShard(keyed.below(("text",), 0, windows * _LENGTH + 1, _VOCABULARY))], CausalObjective(_LENGTH))
    ds_config = zero_json(3, ranks=distributed.world_size(), half=True)
    began, processors = time.perf_counter(), time.process_time()
    with Watched() as watched:
        if fresh:
            engine = fresh_engine(source.family, config, ds_config)
            engine.eval()

            def logits(**inputs: torch.Tensor) -> Logits:
                return logits_of(source.family, engine(**inputs, use_cache=False))

            heldout_loss(logits, partial(scoring, engine.module, source.family), heldout, windows, 1)
        else:
            text = Text(heldout, windows, 1)
            after = measure_grown(grown_model(source, config, plan, ds_config), plan.carried, text)
            measure_growth(source, plan.carried, after, text, torch.bfloat16, "sdpa")
    return Cost(time.perf_counter() - began, time.process_time() - processors, watched.peak)


def started(directory: Path, target: tuple[int, int], ranks: int, *, fresh: bool) -> list[Cost]:
    """Return what each rank took to start from the model in `directory`; `target` is (layers, hidden size)."""
    return run_ranks(start, ranks, directory, *target, fresh, timeout=600)
