"""A DeepSpeed engine around a Hugging Face model whose weights come from a state."""

import gc
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Unpack

import torch
from deepspeed import DeepSpeedEngine
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from pipeline.deepspeed import engine as deepspeed_engine
from pipeline.deepspeed.masters import masters_of, optimizer_of
from pipeline.deepspeed.zero_layout import PartitionSlice
from pipeline.families import ActiveLayers, Family, Sizes, check_parameters, sizes_of
from pipeline.families.graph import Model
from pipeline.families.routing import routers
from pipeline.growth.fused_parameters import optimizer_of_parameters, parameters_of, slices_of
from pipeline.growth.state import OptimizerState, State
from pipeline.growth.streaming import CONSTRUCTING
from pipeline.growth.weighted_norms import WeightedNorms
from pipeline.growth.zero_sink import fill_engine
from pipeline.recipe import OptimizerConfig
from pipeline.training.attention import packing_known, seen_alone, within_documents
from pipeline.training.ds_config import fetched_by_module, zero_stage
from pipeline.training.freezing import Freezable, RowGroups, elements_of
from pipeline.training.layers import LayerSettings, prepare_model
from pipeline.training.losses import Logits, logits_of
from pipeline.training.muon import FreezableMuon
from pipeline.training.optimizer import build_optimizer, optimizer_groups
from pipeline.training.parameter_groups import ParameterGroup, groups_of_parameters
from pipeline.training.sequence_parallel import ALONE, SequenceGroup, mask_of


@dataclass
class TrainedModel:
    """A model in its engine, its parameters known by group."""

    family: Family
    config: PretrainedConfig
    engine: DeepSpeedEngine
    optimizer: Freezable
    parameter_groups: dict[ParameterGroup, list[nn.Parameter]]
    rows: Mapping[str, RowGroups] = field(default_factory=dict)
    """The parameters with rows of several groups, by name."""
    norms: WeightedNorms | None = None
    """Where growth is exact through weighted norm statistics only."""
    sequences: SequenceGroup = ALONE
    """The ranks that this one shares its sequences with."""
    learning: ActiveLayers | None = None
    """What `learn` was last called with."""

    @property
    def module(self) -> PreTrainedModel:
        """The Hugging Face model."""
        return self.engine.module

    @property
    def sizes(self) -> Sizes:
        """The model's sizes."""
        return sizes_of(self.config)

    def logits(
        self,
        input_ids: torch.Tensor,
        documents: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        **others: torch.Tensor,
    ) -> Logits:
        """Run the model on a batch's inputs; no token sees another document's where `documents` are given.

        Where `positions` are given the inputs are this rank's slice of sequences that `sequences` shares.
        """
        extra: dict[str, Any] = {"use_cache": False} if self.family.objective == "clm" else {}
        if getattr(self.config, "output_router_logits", False):
            # The class would make a balancing loss of each batch, which nothing reads.
            extra["output_router_logits"] = False
        if positions is not None:
            extra["position_ids"] = positions + self.family.position_offset
            self.sequences.attend(self.config, mask_of(documents, others.pop("attention_mask", None)))
            return logits_of(self.family, self.engine(input_ids=input_ids, **others, **extra))
        self.sequences.release(self.config)
        if documents is not None:
            extra |= within_documents(self.family, self.config, documents, self.module.dtype)
        if "attention_mask" in others and self.family.objective == "mlm":
            extra["attention_mask"] = seen_alone(self.config, others.pop("attention_mask"), self.module.dtype)
        with packing_known(documents):
            return logits_of(self.family, self.engine(input_ids=input_ids, **others, **extra))

    def reach(self, step: int) -> None:
        """Take on what depends on how many steps this model has been trained."""
        if self.norms is not None:
            self.norms.at(step)

    def learn(self, active: ActiveLayers) -> None:
        """Let only these learn, and freeze all else."""
        if active == self.learning:
            return
        self.learning = active
        # Both switches are needed: without the first, ZeRO-3 steps a parameter by its previous gradient
        # and counts that in the norm; without the second, momentum and decay go on.
        learning = {group.name for group in self.parameter_groups if group.learns(active)}
        in_groups = self.parameter_groups.items()
        with_gradient = {parameter for group, held in in_groups if group.name in learning for parameter in held}
        for parameter in itertools.chain.from_iterable(self.parameter_groups.values()):
            parameter.requires_grad_(parameter in with_gradient)
        for each in self.rows.values():
            each.learn(learning)
        for stepped in self.optimizer.param_groups:
            rows = stepped.get("rows", {})
            for name, own in rows.items():
                own["frozen"] = name not in learning
            stepped["frozen"] = learning.isdisjoint([stepped["block"], *rows])

    def set_rates(self, rate: Callable[[ParameterGroup], float]) -> None:
        """Set the learning rate of every group of the optimizer, and of rows in it that are of other parameter groups."""
        self._set("lr", rate, "rate_ratio")

    def set_decays(self, decay: Callable[[ParameterGroup], float]) -> None:
        """Set the weight decay of every group that decays, as `set_rates` sets rates."""
        self._set("weight_decay", decay, "decays")

    def _set(self, key: str, value: Callable[[ParameterGroup], float], ratio: str) -> None:
        values = {group.name: value(group) for group in self.parameter_groups}
        for stepped in self.optimizer.param_groups:
            for name, own in ((stepped["block"], stepped), *stepped.get("rows", {}).items()):
                own[key] = values[name] * stepped[ratio]

    def divide_batch(self, micro_batch_size: int, accumulation: int) -> None:
        """Take steps of so many micro-batches of so many sequences a rank; between two steps only."""
        deepspeed_engine.divide_batch(self.engine, micro_batch_size, accumulation)

    def close(self) -> None:
        """Give back the engine's memory."""
        self.sequences.release(self.config)
        self.learn(ActiveLayers.whole(self.sizes.num_hidden_layers))
        self.engine.destroy()
        self.engine = None
        gc.collect()


def build_engine(
    family: Family,
    config: PretrainedConfig,
    state: State,
    ds_config: dict[str, Any],
    prepare: Callable[[PreTrainedModel], Freezable | None],
    optimizer_state: OptimizerState | None = None,
) -> DeepSpeedEngine:
    """Return an engine around a model of this configuration, its weights and masters filled from a state of stored tensors.

    `prepare` has the model run as it is to, and returns its optimizer: none where it is only run. Under ZeRO-3 no rank ever
    holds the model whole. A collective call; raises UserError where a disk's blocks do not fit the ranks.
    """
    graph = family.graph(config)
    with (
        CONSTRUCTING,
        deepspeed_engine.partitioned_construction(ds_config, partitioned=zero_stage(ds_config) == 3),
        no_init_weights(),
    ):
        model = family.model_class(config)
    # no_init_weights leaves out the tying too.
    model.tie_weights()
    optimizer = prepare(model)
    if optimizer is not None:
        # One of DeepSpeed's wrappers steps while it is made.
        optimizer.refuses = lambda: True
    engine = deepspeed_engine.initialize(model, ds_config, optimizer, family.layers)
    if optimizer is not None:
        optimizer.refuses = None
    kept = None if optimizer_state is None else optimizer_of_parameters(graph, optimizer_state)
    fill_engine(engine, parameters_of(graph, state), kept)
    return engine


def build(
    family: Family,
    config: PretrainedConfig,
    state: State,
    ds_config: dict[str, Any],
    optimizer: OptimizerConfig,
    parameter_groups: Sequence[ParameterGroup],
    attn_implementation: str,
    optimizer_state: OptimizerState | None = None,
    *,
    new_tokens: torch.Tensor | None = None,
    experts_implementation: str = "grouped_mm",
    **layer_settings: Unpack[LayerSettings],
) -> TrainedModel:
    """Return a model of this configuration that learns, filled from `state`, which is of stored tensors.

    The optimizer starts with `optimizer_state`, or with nothing. `new_tokens` are the ids whose rows groups of new tokens have.
    Raises RuntimeError where the family's table does not match the model class, UserError as `build_engine` does.
    """
    check_parameters(family, config)
    config._attn_implementation = attn_implementation
    graph = family.graph(config)
    if any(routers(graph)):
        config._experts_implementation = experts_implementation
    ds_config = fetched_by_module(ds_config)
    groups_of, shapes = groups_of_parameters(graph, parameter_groups), graph.parameter_shapes()
    rows: dict[str, RowGroups] = {}

    def prepare(model: PreTrainedModel) -> Freezable:
        prepare_model(model, family, **layer_settings)
        tokens = torch.empty(0) if new_tokens is None else new_tokens
        for name, parameter in model.named_parameters():
            if len(groups_of[name]) > 1:
                own = {group.name: group.rows(torch.arange(shapes[name][0]), tokens) for group in groups_of[name]}
                rows[name] = RowGroups(parameter, shapes[name], own)
        return build_optimizer(graph, optimizer_groups(model, graph, parameter_groups, optimizer), optimizer, ds_config)

    engine = build_engine(family, config, state, ds_config, prepare, optimizer_state)
    stepper = optimizer_of(engine)
    assert isinstance(stepper, Freezable)
    stepper.row_groups = elements_of(masters_of(engine), rows)
    if isinstance(stepper, FreezableMuon):
        stepper.locate((master.stepped, _of_stored_tensors(graph, master.slices)) for master in masters_of(engine))
    by_group: dict[ParameterGroup, list[nn.Parameter]] = {}
    for name, parameter in engine.module.named_parameters():
        for group in groups_of[name]:
            by_group.setdefault(group, []).append(parameter)
    return TrainedModel(family, config, engine, stepper, by_group, rows)


def _of_stored_tensors(graph: Model, slices: Iterable[PartitionSlice]) -> list[PartitionSlice]:
    """Return what slices of a class's parameters are of the stored tensors that these hold."""
    held = graph.held()
    return [
        PartitionSlice(tensor.name, first, stop, each.place + place)
        for each in slices
        for tensor, first, stop, place in slices_of(held[each.name], graph.sizes, each.start, each.stop)
    ]
