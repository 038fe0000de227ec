"""DeepSpeed's own JSON: checked, its "auto" values resolved from the recipe and the machine."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from deepspeed.accelerator import get_accelerator
from pydantic import ValidationError

from pipeline.common.config import unknown_key
from pipeline.common.errors import UserError, one_line
from pipeline.deepspeed.config import SECTIONS as DEEPSPEED_SECTIONS
from pipeline.deepspeed.config import dtype_named, refusal
from pipeline.deepspeed.kernels import compiles_async_io
from pipeline.deepspeed.monitors import MONITORS
from pipeline.recipe import AUTO, Recipe, ds_file, read_ds_config
from pipeline.training.monitoring.monitors import resolve_monitors, without_monitors
from pipeline.training.toolchain import check_toolchain, reach_ninja

_SETTLED_HERE = (
    "bf16.enabled",
    "fp16.enabled",
    "zero_optimization.offload_optimizer.nvme_path",
    *(f"{section}.{key}" for section in ds_file.MONITORS for key in ("output_path", "job_name")),
)
"""Keys of those sections whose "auto" is resolved from the recipe or the machine."""

_DIVISION = ("train_batch_size", "gradient_accumulation_steps", "sequence_parallel_size")

_LARGEST = (1 << 63) - 1

_NEVER_PRINT = 1 << 40

_MAY_CHANGE = (
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "sequence_parallel_size",
    "zero_optimization",
    "aio",
    "steps_per_print",
    "timers",
    "wall_clock_breakdown",
    "memory_breakdown",
    "dump_state",
    "disable_python_gc",
    "log_level",
    "comms_logger",
)
"""Keys of how a batch is divided, where state lies, and what is printed: a step depends on them by rounding alone."""

_QUANTIZES = ("zero_quantized_weights", "zero_quantized_gradients", "zeropp_loco_param")
"""Keys of `zero_optimization` by which weights or gradients lose bits on their way: no mere order of sums."""


def load_ds_config(path: Path, recipe: Recipe, world_size: int) -> dict[str, Any]:
    """Return the DeepSpeed configuration in `path`, resolved for this recipe, machine and world size.

    Raises UserError naming the file and the key.
    """
    config = read_ds_config(path)
    check_sections(config, str(path))
    _check_supported(config, recipe, world_size, str(path))
    _resolve_disk(config, recipe, str(path))
    _resolve_batch(config, recipe, data_parallel_size(config, world_size), str(path))
    _resolve_precision(config, str(path))
    if config.get("gradient_clipping", AUTO) == AUTO:
        config["gradient_clipping"] = recipe.optimizer.gradient_clipping
    if recipe.compile:
        check_toolchain("compile: torch.compile", "leave `compile` out", device=get_accelerator().device_name())
    resolve_monitors(config, Path(recipe.run_dir), str(path))
    # The optimizer is the pipeline's own (it can leave groups out of a step), which DeepSpeed accepts only by this key.
    config["zero_allow_untested_optimizer"] = True
    config["zero_force_ds_cpu_optimizer"] = False
    config.setdefault("steps_per_print", _NEVER_PRINT)
    # The pipeline measures each step's speed; DeepSpeed's timer waits for the device twice in each micro-batch to know it.
    config.setdefault("timers", {}).setdefault("throughput", {}).setdefault("enabled", False)
    if compute_dtype(config) is torch.bfloat16:
        # The gradient's norm, which the guard checks, shows the same without two operations a parameter.
        config["bf16"].setdefault("check_grad_overflow", False)
    # By how many ranks it divides is settled, and these may be yet to come.
    refused = refusal({key: value for key, value in config.items() if key not in _DIVISION})
    if refused is not None:
        raise UserError(f"{path}: DeepSpeed refuses it: {refused}")
    return config


def zero_stage(config: Mapping[str, Any]) -> int:
    """The ZeRO stage of a DeepSpeed configuration."""
    return config.get("zero_optimization", {}).get("stage", 0)


def sequence_parallel_size(config: Mapping[str, Any]) -> int:
    """How many ranks share each sequence."""
    return config.get("sequence_parallel_size", 1)


def data_parallel_size(config: Mapping[str, Any], world_size: int) -> int:
    """How many groups of ranks read samples of their own."""
    return world_size // sequence_parallel_size(config)


def for_engine(config: Mapping[str, Any], world_size: int) -> dict[str, Any]:
    """Return a resolved configuration as DeepSpeed's engine takes it: without monitors, and without shared sequences.

    To the engine each rank has micro-batches of its own, whoever else has other positions of the same sequences.
    """
    kept = {key: value for key, value in without_monitors(dict(config)).items() if key != "sequence_parallel_size"}
    kept["train_batch_size"] = kept["train_micro_batch_size_per_gpu"] * kept["gradient_accumulation_steps"] * world_size
    return kept


def fetched_by_module(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration by which ZeRO-3 fetches as wholes no modules but those that it names.

    Otherwise DeepSpeed takes the blocks of some mixtures of experts for such leaves, and fails where some of one is frozen.
    They are for experts that are modules of their own, of which ranks may run different ones; here every rank fetches the one
    parameter that joins them.
    """
    zero = config.get("zero_optimization", {})
    return {**config, "zero_optimization": {"leaf_module": {"classes": []}, **zero}} if zero.get("stage") == 3 else dict(config)


def has_zero_linear(config: Mapping[str, Any]) -> bool:
    """Whether DeepSpeed puts a linear of its own in the place of torch's, which keeps no view of a gathered weight."""
    return zero_stage(config) == 3 and config["zero_optimization"].get("memory_efficient_linear", True)


def offloads_optimizer(config: dict[str, Any]) -> bool:
    """Whether masters and the optimizer's state lie in the host's memory or on its disk."""
    return config.get("zero_optimization", {}).get("offload_optimizer", {}).get("device", "none") != "none"


def compute_dtype(config: dict[str, Any]) -> torch.dtype:
    """The dtype in which the engine runs the model."""
    if config.get("bf16", {}).get("enabled"):
        return torch.bfloat16
    return torch.float16 if config.get("fp16", {}).get("enabled") else torch.float32


def same_run(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that may not change during a run.

    All but how a batch is divided, where weights, gradients and optimizer state lie and how they are moved, and the monitors:
    every start fills the engine from a checkpoint, which any engine may have written.
    """
    same = {key: copy.deepcopy(value) for key, value in without_monitors(config).items() if key not in _MAY_CHANGE}
    if isinstance(same.get("bf16"), dict):
        # With and without DeepSpeed's check, a step whose gradient is not finite is left out.
        same["bf16"].pop("check_grad_overflow", None)
    zero = config.get("zero_optimization", {})
    return same | ({key: zero[key] for key in _QUANTIZES if zero.get(key)} if isinstance(zero, dict) else {})


def rounds_alike(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that may change during a run and by which sums are rounded in another order."""
    zero = config.get("zero_optimization", {})
    where = {
        name: zero[name]["device"]
        for name in ("offload_optimizer", "offload_param")
        if zero.get(name, {}).get("device", "none") != "none"
    }
    micro = config.get("train_micro_batch_size_per_gpu")
    shared = {"sequence_parallel_size": sequence_parallel_size(config)}
    return shared | {"train_micro_batch_size_per_gpu": micro, "zero_optimization": {"stage": zero_stage(config), **where}}


def check_sections(config: dict[str, Any], origin: str) -> None:
    """Let DeepSpeed's own models judge their sections, and put what they read there in the place of what was written."""
    monitors = {section: MONITORS[section].settings for section in ds_file.MONITORS}
    for section, model in (DEEPSPEED_SECTIONS | monitors).items():
        written = _section(config, section)
        if not isinstance(written, dict):
            raise UserError(f"{origin}: {section}: an object of keys is expected (got {written!r})")
        fields = model.model_fields
        names = {name: name for name in fields} | {field.alias: name for name, field in fields.items() if field.alias}
        for key in written:
            if key not in names:
                raise UserError(unknown_key(origin, f"{section}.{key}", list(names)))
            extra = fields[names[key]].json_schema_extra
            if isinstance(extra, dict) and extra.get("deprecated"):
                raise UserError(f"{origin}: {section}.{key}: DeepSpeed has replaced it; use {extra['new_param']}")
        try:
            read = model(**written)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join([section, *map(str, first["loc"])])
            got = f" (got {first['input']!r})" if first["loc"] else ""
            raise UserError(f"{origin}: {where}: {first['msg'].removeprefix('Value error, ')}{got}") from None
        except Exception as error:  # some fields are read by functions that raise as they fall
            raise UserError(f"{origin}: {section}: DeepSpeed refuses it: {one_line(error, None)}") from None
        for key, value in list(written.items()):
            if value == AUTO and f"{section}.{key}" not in _SETTLED_HERE:
                # To DeepSpeed this is its default.
                del written[key]
            # Sections within are in the table too.
            elif value != AUTO and not isinstance(value, dict):
                written[key] = getattr(read, names[key])
                if isinstance(written[key], int) and abs(written[key]) > _LARGEST:
                    raise UserError(f"{origin}: {section}.{key}: a whole number of 64 bits is expected (got {value!r})")


def check_weights_stay_in_memory(config: dict[str, Any], origin: str) -> None:
    """Raise UserError where weights are to lie on a disk, since they are filled tensor by tensor."""
    if _section(config, "zero_optimization.offload_param").get("device") == "nvme":
        raise UserError(f"{origin}: zero_optimization.offload_param.device: nvme is not supported with growth; choose cpu")


def _section(config: dict[str, Any], section: str) -> Any:
    value: Any = config
    for key in section.split("."):
        value = value.get(key, {})
    return value


def _check_supported(config: dict[str, Any], recipe: Recipe, world_size: int, origin: str) -> None:
    """Refuse keys of DeepSpeed's that are not supported, each with what to do instead."""
    zero = _section(config, "zero_optimization")
    for key, (stays, reason) in _NOT_HERE.items():
        section, _, name = key.rpartition(".")
        if _section(config, section).get(name, stays) != stays:
            raise UserError(f"{origin}: {key}: {reason}; remove the key")
    check_weights_stay_in_memory(config, origin)
    for name, stages, devices in (
        ("offload_optimizer", (1, 2, 3), ("cpu", "nvme")),
        ("offload_optimizer", (3,), ("nvme",)),
        ("offload_param", (3,), ("cpu",)),
    ):
        device = zero.get(name, {}).get("device")
        if device in devices and zero_stage(config) not in stages:
            raise UserError(
                f"{origin}: zero_optimization.{name}.device: {device} goes with ZeRO stage {' or '.join(map(str, stages))}, "
                f"not {zero_stage(config)}"
            )
    if zero_stage(config) in (1, 2) and zero.get("allgather_bucket_size", 0) % 2:
        raise UserError(
            f"{origin}: zero_optimization.allgather_bucket_size: an even number is expected under ZeRO stages 1 and 2 "
            f"(got {zero['allgather_bucket_size']})"
        )
    sharing = sequence_parallel_size(config)
    if world_size % sharing:
        raise UserError(
            f"{origin}: sequence_parallel_size: {sharing} does not divide the number of ranks, {world_size}; choose a divisor "
            "of it"
        )
    group = zero.get("zero_hpz_partition_size", 1)
    if group != 1 and (zero_stage(config) != 3 or not isinstance(group, int) or group < 1 or world_size % group):
        raise UserError(
            f"{origin}: zero_optimization.zero_hpz_partition_size: {group!r} needs ZeRO stage 3 and has to divide the "
            f"number of ranks, {world_size}; choose a divisor of it, or 1"
        )
    leaves = [key for key in ("leaf_module", "stage3_module_granularity_threshold") if zero.get(key)]
    partial = [stage.name for stage in recipe.train_stages if stage.submodel_layers or stage.trainable]
    if leaves and partial:
        # Of layers that are fetched as wholes and of which some are frozen DeepSpeed fails in the backward pass.
        raise UserError(
            f"{origin}: zero_optimization.{leaves[0]}: goes with stages that train the whole model, and stages.{partial[0]} "
            "trains a part of it; remove the key"
        )
    if get_accelerator().device_name() == "cpu":
        for key in ("zero_quantized_weights", "zero_quantized_gradients"):
            if zero.get(key):
                raise UserError(f"{origin}: zero_optimization.{key}: needs a GPU's kernels; remove the key on this machine")


_NOT_HERE: dict[str, tuple[Any, str]] = {
    "zero_optimization.compute_grad_norm": (True, "steps are skipped, and metrics recorded, by the gradient's norm"),
    "zero_optimization.legacy_stage1": (False, "DeepSpeed has had another stage 1 since 0.5.9"),
    "zero_optimization.mics_shard_size": (-1, "weights replicated over shard groups cannot be filled by growth"),
    "zero_optimization.round_robin_gradients": (
        False,
        "DeepSpeed then writes into checkpoints where parameters would lie without it, so that a run that goes on reads others",
    ),
    "zero_optimization.zero_quantized_nontrainable_weights": (
        False,
        "weights that are frozen now learn later, and would have been rounded to 8 bits",
    ),
    "zero_optimization.offload_optimizer.ratio": (1.0, "the optimizer is the recipe's, which steps all masters in one place"),
    "zero_optimization.offload_optimizer.super_offload": (
        False,
        "SuperOffload steps by an Adam of its own, which freezes no groups; offload_optimizer.device: cpu steps by ours",
    ),
    "zero_optimization.zenflow": (
        None,
        "ZenFlow steps by an Adam of its own, some columns late, which freezes no groups; offload_optimizer.device: cpu steps "
        "by ours",
    ),
    "bf16.bf16_master_weights_and_grads": (False, "masters are float32 here, so that growth and resuming are exact"),
    "bf16.bf16_optimizer_states": (False, "masters are float32 here, so that growth and resuming are exact"),
    "fp16.fp16_master_weights_and_grads": (False, "masters are float32 here, so that growth and resuming are exact"),
}
"""Keys, the value that they may have, and why no other."""


def _resolve_disk(config: dict[str, Any], recipe: Recipe, origin: str) -> None:
    """Give optimizer state on a disk a place, and as many buffers as it has tensors, where the file names none.

    Raises UserError where the machine, or a growth, does not go with it.
    """
    offload, where = _section(config, "zero_optimization.offload_optimizer"), f"{origin}: zero_optimization.offload_optimizer"
    if offload.get("nvme_path") == AUTO:
        offload["nvme_path"] = str(Path(recipe.run_dir) / "nvme")
    if offload.get("device") != "nvme":
        return
    growths = [phase.growth for phase in recipe.grown_phases]
    if any(growth.added.steps and growth.optimizer_state == "fresh" for growth in growths):
        raise UserError(
            "growth.added: with zero_optimization.offload_optimizer.device: nvme the optimizer's state is laid out on the "
            "disk before the first step, and a fresh state has no moments yet; choose optimizer_state: grow, or cpu as the "
            "device, or leave `added` out"
        )
    if any(growth.optimizer_state == "grow" for growth in growths):
        # Beside weight, gradient and two moments a grown tensor may have of each element a step, a rate, an eps and the steps
        # for which it counts as added.
        offload.setdefault("buffer_count", 8)
    if not offload.get("nvme_path"):
        raise UserError(
            f'{where}.nvme_path: the key is missing; name a directory on the disk, or "auto" for one in the run directory'
        )
    check_toolchain(f"{where}.device: nvme", "choose cpu")
    if not reach_ninja():
        raise UserError(
            f"{where}.device: nvme needs ninja, with which DeepSpeed compiles; pip install ninja, or install Debian's package "
            "ninja-build, or choose cpu"
        )
    if not compiles_async_io():
        raise UserError(
            f"{where}.device: nvme needs libaio's headers, which DeepSpeed compiles against; install them (Debian's package is "
            "libaio-dev), or choose cpu"
        )


def division(batch: int, most: int, world_size: int, origin: str) -> tuple[int, int]:
    """Return (micro-batch, accumulation) by which `batch` sequences divide over the ranks, at most `most` at once on each.

    Raises UserError naming `origin`, where the batch is given, if it does not divide.
    """
    if batch % world_size:
        raise UserError(
            f"{origin}: train_batch_size {batch} does not divide over {world_size} ranks; choose a multiple of {world_size}"
        )
    share = batch // world_size
    micro = max(size for size in range(1, min(most, share) + 1) if share % size == 0)
    return micro, share // micro


def _resolve_batch(config: dict[str, Any], recipe: Recipe, world_size: int, origin: str) -> None:
    given = {key: value for key, value in config.items() if value != AUTO}
    batch = given.get("train_batch_size", recipe.train_batch_size)
    most = given.get("train_micro_batch_size_per_gpu", recipe.train_micro_batch_size_per_gpu)
    micro, accumulation = division(batch, most, world_size, origin if "train_batch_size" in given else "recipe")
    steps = given.get("gradient_accumulation_steps", accumulation)
    if steps != accumulation:
        raise UserError(
            f"{origin}: gradient_accumulation_steps {steps} does not fit: train_batch_size {batch} on {world_size} ranks in "
            f'micro-batches of {micro} accumulates {accumulation} times; set it to "auto"'
        )
    divided = {"train_micro_batch_size_per_gpu": micro, "gradient_accumulation_steps": accumulation}
    config.update(divided, train_batch_size=batch)


def _resolve_precision(config: dict[str, Any], origin: str) -> None:
    if config.get("fp16", {}).get("enabled") == AUTO:
        config["fp16"]["enabled"] = False
    bf16 = config.get("bf16", {})
    if bf16.get("enabled") == AUTO:
        bf16["enabled"] = not config.get("fp16", {}).get("enabled") and _has_bf16()
    if config.get("fp16", {}).get("enabled") and not get_accelerator().is_fp16_supported():
        raise UserError(f"{origin}: fp16.enabled: this device does not run fp16; use bf16 or fp32")
    if zero_stage(config) == 0 and compute_dtype(config) is torch.float16:
        raise UserError(
            f"{origin}: zero_optimization.stage: stage 0 does not support fp16 here, since a resumed run would lose its "
            "loss scale; choose stage 1, which costs one rank nothing more"
        )
    # DeepSpeed does not bring other dtypes together with the one that the model runs in.
    computed, where = compute_dtype(config), f"{origin}: data_types"
    chosen = {key: dtype_named(name) for key, name in config.get("data_types", {}).items() if key.endswith("dtype") and name}
    if chosen.get("param_dtype", computed) != computed:
        raise UserError(f"{where}.param_dtype: the model runs in {computed}, as bf16 and fp16 say; remove the key")
    if zero_stage(config) == 0 and chosen.get("grad_accum_dtype", computed) != computed:
        raise UserError(
            f"{where}.grad_accum_dtype: ZeRO stage 0 adds gradients up in the dtype that the model runs in, {computed}; remove "
            "the key, or choose stage 1"
        )


def _has_bf16() -> bool:
    """Whether bf16 is computed in hardware; CPUs without it emulate it more slowly than fp32."""
    accelerator = get_accelerator()
    if accelerator.device_name() != "cpu":
        return accelerator.is_bf16_supported()
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
