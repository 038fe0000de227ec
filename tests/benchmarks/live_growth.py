"""Growth into live ZeRO-3 partitions beside the same engine on fresh random weights: memory and time up to the first step."""

import time
from functools import partial
from pathlib import Path

import deepspeed
import torch

from pipeline.common import keyed
from pipeline.data.objectives import CausalObjective
from pipeline.families import target_config
from pipeline.growth.plan import plan_growth
from pipeline.growth.sources import open_source
from pipeline.recipe import GrowthConfig, OptimizerConfig, TargetConfig
from pipeline.training import distributed
from pipeline.training.certifying.measure import Text, measure_grown, measure_growth
from pipeline.training.engine import build
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


def start(directory: Path, layers: int, hidden: int, fresh: bool) -> Cost:
    """Return what starting one engine costs on this rank, up to its first step; the peak is over what the process held before.

    A fresh one is evaluated on held-out text, a grown one is measured beside its source on the same.
    """
    source = open_source(directory)
    config = target_config(source.config, TargetConfig(hidden_size=hidden, num_hidden_layers=layers))
    # Text that says nothing, two windows a rank.
    windows = 2 * distributed.world_size()
    text = MemoryShard(keyed.below(("text",), 0, windows * _LENGTH + 1, _VOCABULARY))
    heldout = batches([text], CausalObjective(_LENGTH))
    ds_config = zero_json(3, ranks=distributed.world_size(), half=True)
    began, processors = time.perf_counter(), time.process_time()
    with Watched() as watched:
        if fresh:
            with deepspeed.zero.Init(config_dict_or_path=ds_config):
                model = source.family.model_class(config)
            graph = source.family.graph(config)
            groups = optimizer_groups(model, graph, cut(layers, []), OptimizerConfig())
            optimizer = build_optimizer(graph, groups, OptimizerConfig(), ds_config)
            engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=ds_config)
            engine.eval()
            scored = partial(scoring, engine.module, source.family)

            def logits(**inputs: torch.Tensor) -> Logits:
                return logits_of(source.family, engine(**inputs, use_cache=False))

            heldout_loss(logits, scored, heldout, windows, 1)
        else:
            plan = plan_growth(source.config, config, GrowthConfig(width="fpi", depth="last_layer"), 1)
            grown = build(source.family, config, plan.grow(source.state), ds_config, OptimizerConfig(), cut(layers, []), "sdpa")
            text = Text(heldout, windows, 1)
            after = measure_grown(grown, plan.carried, text)
            measure_growth(source, plan.carried, after, text, torch.bfloat16, "sdpa")
    return Cost(time.perf_counter() - began, time.process_time() - processors, watched.peak)


def started(directory: Path, target: tuple[int, int], ranks: int, *, fresh: bool) -> list[Cost]:
    """Return what each rank took to start from the model in `directory`; `target` is (layers, hidden size)."""
    return run_ranks(start, ranks, directory, *target, fresh, timeout=600)
