"""A DeepSpeed engine around a Hugging Face model whose weights come from a state."""

import gc
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
from deepspeed import DeepSpeedEngine
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.integrations.deepspeed import prevent_arange_dtype_change

from data_prep.errors import UserError
from pipeline.families import Family, Sizes, check_parameters, sizes_of
from pipeline.growth.state import OptimizerState, State
from pipeline.growth.weighted_norms import WeightedNorms
from pipeline.growth.zero_sink import fill_engine
from pipeline.recipe import OptimizerConfig
from pipeline.training.attention import within_documents
from pipeline.training.ds_config import zero_stage
from pipeline.training.optimizer import HEAD, FreezableAdamW, build_optimizer, layer_block, parameters_by_block


@dataclass
class TrainedModel:
    """A model in its engine, its parameters known by block."""

    family: Family
    config: PretrainedConfig
    engine: DeepSpeedEngine
    optimizer: FreezableAdamW
    blocks: dict[str, list[nn.Parameter]]
    layers_per_block: int
    norms: WeightedNorms | None = None
    """Where growth is exact through weighted norm statistics only."""

    @property
    def module(self) -> PreTrainedModel:
        """The Hugging Face model."""
        return self.engine.module

    @property
    def sizes(self) -> Sizes:
        """The model's sizes."""
        return sizes_of(self.config)

    def logits(self, input_ids: torch.Tensor, documents: torch.Tensor | None = None) -> torch.Tensor:
        """Run the model: [sequences, S] ids to [sequences, S, vocab] logits; `documents`, where given, are kept apart."""
        extra = {"use_cache": False} if self.family.objective == "clm" else {}
        if documents is not None:
            extra |= within_documents(self.family, self.config, documents, self.module.dtype)
        return self.engine(input_ids=input_ids, **extra).logits

    def reach(self, step: int) -> None:
        """Take on what depends on how many steps this model has been trained."""
        if self.norms is not None:
            self.norms.at(step)

    def train_all(self) -> None:
        """Let every block learn."""
        self._train(set(self.blocks))

    def train_top(self, depth: int, trained: int) -> None:
        """Let only the layers [depth - trained, depth) and the head learn; all else stands still."""
        size = self.layers_per_block
        layers = {layer_block(first, first + size - 1) for first in range(depth - trained, depth, size)}
        self._train({HEAD, *layers})

    def _train(self, learning: set[str]) -> None:
        # Both switches are needed: without the first, ZeRO-3 steps a parameter by its previous gradient
        # and counts that in the norm; without the second, momentum and decay go on.
        for block, parameters in self.blocks.items():
            for parameter in parameters:
                parameter.requires_grad_(block in learning)
        for group in self.optimizer.param_groups:
            group["frozen"] = group["block"] not in learning

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of every group."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def close(self) -> None:
        """Give back the engine's memory."""
        self.train_all()
        self.engine.destroy()
        self.engine = None
        gc.collect()


def build(
    family: Family,
    config: PretrainedConfig,
    state: State,
    ds_config: dict[str, Any],
    optimizer: OptimizerConfig,
    per_block: int,
    attn_implementation: str,
    optimizer_state: OptimizerState | None = None,
) -> TrainedModel:
    """Return a model of this configuration, its weights and fp32 masters filled from `state`.

    The optimizer starts with `optimizer_state`, or with nothing. Raises RuntimeError where the family's
    table does not match the model class, UserError where masters would lie out of reach.
    """
    if ds_config.get("zero_optimization", {}).get("offload_optimizer", {}).get("device") == "nvme":
        raise UserError(
            "zero_optimization.offload_optimizer.device: masters on nvme can neither be filled nor read back from a "
            "checkpoint here; cpu would do"
        )
    check_parameters(family, config)
    config._attn_implementation = attn_implementation
    partitioned = zero_stage(ds_config) == 3
    with (
        # zero.Init would round what rotary frequencies are made of to the model's dtype: bf16 puts them off by 0.4 %,
        # which is whole turns at the end of a long sequence.
        prevent_arange_dtype_change(),
        deepspeed.zero.Init(config_dict_or_path=ds_config, enabled=partitioned),
        no_init_weights(),
    ):
        model = family.model_class(config)
    # no_init_weights leaves out the tying too.
    model.tie_weights()
    groups = parameters_by_block(model, family, sizes_of(config), per_block)
    adamw = build_optimizer(model, groups, optimizer)
    engine, *_ = deepspeed.initialize(model=model, optimizer=adamw, config=ds_config)
    fill_engine(engine, state, optimizer_state)
    blocks: dict[str, list[nn.Parameter]] = {}
    for (block, _), parameters in groups.items():
        blocks.setdefault(block, []).extend(parameters)
    return TrainedModel(family, config, engine, adamw, blocks, per_block)
