"""DeepSpeed's own JSON as it stands in the file: its keys, and the values of those that DeepSpeed itself does not check.

Nothing of DeepSpeed is imported: its own models judge their sections later (`pipeline/training/ds_config.py`).
"""

import sys
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, create_model, model_validator

from pipeline.common.config import PositiveInt, StrictModel, read_json, validate
from pipeline.common.errors import UserError
from pipeline.recipe.growth import AUTO

_BELONG_TO_RECIPE = {
    "optimizer": "`optimizer` of the recipe, which freezes by parameter group",
    "scheduler": "`schedule` of the recipe, which spans its stages",
    "activation_checkpointing": "`activation_checkpointing` of the recipe, which knows the layers",
    "compile": "`compile` of the recipe, which compiles layer by layer (DeepCompile traces a whole model, of which steps here "
    "run a part)",
    "flops_profiler": "`flops` of the recipe, by which every step's FLOPs are counted",
}

_REMOVED = "DeepSpeed has removed it"

ABSENT = {
    "amp": f"{_REMOVED}; `bf16` or `fp16` trains in half precision",
    "autotuning": "it starts the script again and again; `--dry_run` says what a run keeps in memory and costs",
    "bfloat16": "it is an older name of `bf16`; use that one",
    "checkpoint.checkpoint_serialization": "checkpoints are in torch's zip format, of which each tensor is read by itself",
    "checkpoint.load_universal": "a run goes on from its own checkpoints at any number of ranks and any ZeRO stage, without "
    "converting them; to begin from a model of another tool's, name the checkpoint that the universal one was made from as "
    "`source.path`",
    "checkpoint.writer": "checkpoints are written beside the steps by `checkpointing.asynchronous` of the recipe",
    "compression_training": f"{_REMOVED}; quantize the exported model with a tool of its own",
    "curriculum_learning": f"{_REMOVED}; stages of the recipe have sequence lengths and blends of their own",
    "data_efficiency": "which text comes when is the recipe's, so that a run can be resumed; stages have sequence lengths and "
    "blends of their own",
    "dataloader_drop_last": "batches are drawn by the recipe, and each is whole; DeepSpeed's data loader is not used",
    "datastates_ckpt": "checkpoints are written beside the steps by `checkpointing.asynchronous` of the recipe",
    "disable_allgather": "DeepSpeed reads the key and does nothing by it",
    "eigenvalue": f"{_REMOVED}",
    "elasticity": f"{_REMOVED}; a run goes on with another number of ranks by itself",
    "expert_parallel": "DeepSpeed puts modules of its own in the place of the experts, from whose checkpoints a run could not "
    "go on at another number of ranks, and DeepSpeed 0.19.8 cannot on transformers 5.23; ZeRO-3 divides experts among ranks",
    "gradient_allreduce_op": "losses are scaled for a mean over ranks; a sum would multiply the gradient by their number",
    "graph_harvesting": f"{_REMOVED}; `compile` of the recipe compiles the layers",
    "hybrid_engine": "it generates text between steps, and nothing does that here",
    "managed_gradient_accumulation": "the engine counts a step's micro-batches, and steps at the last one",
    "nebula": f"{_REMOVED}; checkpoints are written beside the steps by `checkpointing.asynchronous` of the recipe",
    "pipeline": "models are Hugging Face's classes, which are no sequence of stages; ZeRO-3 divides weights among ranks",
    "progressive_layer_drop": f"{_REMOVED}; `submodel_layers` of a stage trains models of fewer layers",
    "quantize_training": f"{_REMOVED}; quantize the exported model with a tool of its own",
    "seq_parallel_communication_data_type": "gradients of ranks that share sequences are summed with all others; "
    "`communication_data_type` is for all of them",
    "sparse_attention": f"{_REMOVED}; `attn_implementation` of the recipe names the kernel",
    "sparse_gradients": f"{_REMOVED}",
    "tensor_parallel": "AutoTP cuts matrices by their names, and growth fills none of its pieces; ZeRO-3 divides weights among "
    "ranks, and `sequence_parallel_size` divides activations",
    "torch_autocast": "the growth is measured in the type that the whole model runs in; `bf16` runs it in bfloat16 beside "
    "float32 masters",
    "use_data_before_expert_parallelism": "it orders the ranks of `expert_parallel`, which is not supported",
    "vocabulary_size": "DeepSpeed only warns by it; `make_vocab_size_divisible_by` of the recipe pads the vocabulary",
    "weight_quantization": "it is for inference; quantize the exported model with a tool of its own",
}
"""Features of DeepSpeed that do not go with growth, or that DeepSpeed no longer has, by section and key: why, and what there
is instead."""

_AS_IT_IS: dict[str, Any] = {
    "checkpoint.checkpoint_serialization": True,
    "gradient_allreduce_op": "mean",
    "managed_gradient_accumulation": True,
    "tensor_parallel": {"autotp_size": 0},
}
"""Values that ask for what is done without the key, although they are not merely off."""


def _count_or_auto(value: Any) -> Any:
    if value != AUTO and (not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31):
        raise ValueError('a positive number or "auto" is expected, at most 2147483647')
    return value


def _clipping(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value != AUTO and not (number and 0 <= value <= sys.float_info.max):
        raise ValueError('a number from 0 on or "auto" is expected')
    return value


def _object(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("an object of keys is expected")
    return value


def _patterns(value: Any) -> Any:
    if value != AUTO and not (isinstance(value, list) and all(isinstance(pattern, str) for pattern in value)):
        raise ValueError('a list of name patterns or "auto" is expected')
    return value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


Count = Annotated[Any, AfterValidator(_count_or_auto)]
Section = Annotated[dict[str, Any], BeforeValidator(_object)]
"""What DeepSpeed's own model of the section judges."""
Dtype = Literal["fp32", "float32", "float", "bf16", "bfloat16", "fp16", "float16", "half"]


MONITORS = ("tensorboard", "wandb", "csv_monitor", "comet")
"""Sections that say where a run's curves go; each has an entry in `pipeline/deepspeed/monitors.py`."""


class _Judged(StrictModel):
    """Keys that DeepSpeed takes as they are: a wrong value would be found inside the engine, or never."""

    model_config = ConfigDict(strict=True)


class _DataTypes(_Judged):
    grad_accum_dtype: Dtype | None = None
    param_dtype: Dtype | None = None
    buffer_dtype: Dtype | None = None
    keep_in_fp32_modules: Annotated[Any, AfterValidator(_patterns)] = AUTO


CInt = Annotated[int, Field(gt=0, lt=1 << 31)]


class _Aio(_Judged):
    block_size: CInt = 1 << 20
    queue_depth: CInt = 8
    intra_op_parallelism: CInt = 1
    single_submit: bool = False
    overlap_events: bool = True
    use_gds: bool = False


class _ParallelWrite(_Judged):
    pipeline_stage: bool = False


class _Checkpoint(_Judged):
    tag_validation: Annotated[Literal["ignore", "warn", "fail"], BeforeValidator(_lower)] = "warn"
    use_node_local_storage: bool = False
    parallel_write: _ParallelWrite = _ParallelWrite()


class _Throughput(_Judged):
    # DeepSpeed's own defaults are true: it then waits for the device twice in each micro-batch.
    enabled: bool = False
    synchronized: bool = True


class _Timers(_Judged):
    throughput: _Throughput = _Throughput()


class _DeepSpeedFile(_Judged):
    train_batch_size: Count = AUTO
    train_micro_batch_size_per_gpu: Count = AUTO
    gradient_accumulation_steps: Count = AUTO
    sequence_parallel_size: CInt = 1
    gradient_clipping: Annotated[Any, AfterValidator(_clipping)] = AUTO
    prescale_gradients: bool = False
    gradient_predivide_factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    communication_data_type: Annotated[Literal["fp32", "bf16", "fp16"] | None, BeforeValidator(_lower)] = None
    data_types: _DataTypes = _DataTypes()
    bf16: Section = {}
    fp16: Section = {}
    zero_optimization: Section = {}
    zero_allow_untested_optimizer: bool = True
    zero_force_ds_cpu_optimizer: bool = False
    aio: _Aio = _Aio()
    steps_per_print: PositiveInt | None = None
    timers: _Timers = _Timers()
    wall_clock_breakdown: bool = False
    memory_breakdown: bool = False
    dump_state: bool = False
    disable_python_gc: bool = False
    log_level: Literal["debug", "info", "warning", "error", "critical"] | None = None
    comms_logger: Section = {}
    checkpoint: _Checkpoint = _Checkpoint()

    @model_validator(mode="after")
    def _goes_together(self) -> "_DeepSpeedFile":
        if self.bf16.get("enabled") is True and self.fp16.get("enabled") is True:
            raise ValueError("bf16.enabled and fp16.enabled are both true; set one of them to false")
        stage = self.zero_optimization.get("stage", 0)
        if isinstance(stage, bool) or stage not in (0, 1, 2, 3):
            raise ValueError(f"zero_optimization.stage: 0, 1, 2 or 3 is expected (got {stage!r})")
        for key, stays in (("prescale_gradients", False), ("gradient_predivide_factor", 1.0)):
            if stage != 0 and getattr(self, key) != stays:
                raise ValueError(f"{key}: from stage 1 on ZeRO averages gradients in its own way; remove the key")
        return self


def _asks_for_nothing(key: str, value: Any) -> bool:
    if value in (None, "auto") or (key in _AS_IT_IS and value == _AS_IT_IS[key]):
        return True
    # False is a value like any other where the key is true without being written.
    off = value is False or value == {} or (isinstance(value, dict) and value.get("enabled") is False)
    return off and _AS_IT_IS.get(key) is not True


def read_ds_config(path: Path) -> dict[str, Any]:
    """Return the object in a DeepSpeed JSON file, without the keys for which it leaves the word to the recipe.

    Raises UserError naming the file and the key.
    """
    config = read_json(path, "ds_configs/ has one for each way of running")
    for key, place in _BELONG_TO_RECIPE.items():
        if config.pop(key, AUTO) != AUTO:
            raise UserError(f'{path}: {key}: belongs in {place}; remove it here, or set it to "auto"')
    for key, reason in ABSENT.items():
        section, _, name = key.rpartition(".")
        holder = config.get(section, {}) if section else config
        if isinstance(holder, dict) and name in holder and not _asks_for_nothing(key, holder.pop(name)):
            raise UserError(f"{path}: {key}: not supported: {reason}; remove the key")
    validate(_with_sections(MONITORS), config, str(path))
    return config


@cache
def _with_sections(names: tuple[str, ...]) -> type[_DeepSpeedFile]:
    sections: dict[str, Any] = dict.fromkeys(names, (Section, {}))
    return create_model("DeepSpeedFile", __base__=_DeepSpeedFile, **sections)
