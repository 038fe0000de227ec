"""DeepSpeed's own JSON: checked, its "auto" values resolved from the recipe and the machine."""

from pathlib import Path
from typing import Any

import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.runtime.zero.offload_config import DeepSpeedZeroOffloadOptimizerConfig, DeepSpeedZeroOffloadParamConfig
from pydantic import BaseModel, ValidationError

from data_prep.config import read_json, unknown_key
from data_prep.errors import UserError
from pipeline.recipe import Recipe

AUTO = "auto"

_BELONG_TO_RECIPE = {
    "optimizer": "`optimizer` of the recipe, which freezes by parameter group",
    "scheduler": "`schedule` of the recipe, which spans its stages",
}
_KEYS = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "prescale_gradients",
    "gradient_predivide_factor",
    "communication_data_type",
    "data_types",
    "bf16",
    "fp16",
    "zero_optimization",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
    "aio",
    "steps_per_print",
    "wall_clock_breakdown",
    "memory_breakdown",
    "dump_state",
    "comms_logger",
    "tensorboard",
    "wandb",
    "csv_monitor",
    "comet",
    "checkpoint",
)
_SECTIONS: dict[str, type[BaseModel]] = {
    "bf16": DeepSpeedBF16Config,
    "fp16": DeepSpeedFP16Config,
    "zero_optimization": DeepSpeedZeroConfig,
    "zero_optimization.offload_optimizer": DeepSpeedZeroOffloadOptimizerConfig,
    "zero_optimization.offload_param": DeepSpeedZeroOffloadParamConfig,
}
_NEVER_PRINT = 1 << 40


def load_ds_config(path: Path, recipe: Recipe, world_size: int) -> dict[str, Any]:
    """Return the DeepSpeed configuration in `path`, resolved for this recipe, machine and world size.

    Raises UserError naming the file and the key.
    """
    config = read_json(path, "ds_configs/ has one for each way of running")
    _check_keys(config, str(path))
    _check_supported(config, str(path))
    _resolve_batch(config, recipe, world_size, str(path))
    _resolve_precision(config, str(path))
    if config.get("gradient_clipping", AUTO) == AUTO:
        config["gradient_clipping"] = recipe.optimizer.gradient_clipping
    if not isinstance(config["gradient_clipping"], int | float):
        raise UserError(f'{path}: gradient_clipping: a number or "auto" is expected (got {config["gradient_clipping"]!r})')
    _check_sections(config, str(path))
    # The optimizer is the pipeline's own (it can leave groups out of a step), which DeepSpeed must be told to accept.
    config["zero_allow_untested_optimizer"] = True
    config["zero_force_ds_cpu_optimizer"] = False
    config.setdefault("steps_per_print", _NEVER_PRINT)
    return config


def zero_stage(config: dict[str, Any]) -> int:
    """The ZeRO stage of a DeepSpeed configuration."""
    return config.get("zero_optimization", {}).get("stage", 0)


def compute_dtype(config: dict[str, Any]) -> torch.dtype:
    """The dtype in which the engine runs the model."""
    if config.get("bf16", {}).get("enabled"):
        return torch.bfloat16
    return torch.float16 if config.get("fp16", {}).get("enabled") else torch.float32


def same_run(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that may not change during a run: all but how a batch is divided."""
    divided = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    return {key: value for key, value in config.items() if key not in divided}


def _check_keys(config: dict[str, Any], origin: str) -> None:
    for key, value in config.items():
        if key in _BELONG_TO_RECIPE:
            if value != AUTO:
                raise UserError(f'{origin}: {key}: belongs into {_BELONG_TO_RECIPE[key]}; remove it here or say "auto"')
        elif key not in _KEYS:
            raise UserError(unknown_key(origin, key, list(_KEYS)))
    for key in _BELONG_TO_RECIPE:
        config.pop(key, None)
    for section, model in _SECTIONS.items():
        value = _section(config, section)
        if not isinstance(value, dict):
            raise UserError(f"{origin}: {section}: an object of keys is expected (got {value!r})")
        known = [field.alias or name for name, field in model.model_fields.items()] + list(model.model_fields)
        for key in value:
            if key not in known:
                raise UserError(unknown_key(origin, f"{section}.{key}", known))


def _section(config: dict[str, Any], section: str) -> Any:
    value: Any = config
    for part in section.split("."):
        value = value.get(part, {})
    return value


def _check_supported(config: dict[str, Any], origin: str) -> None:
    """Refuse what DeepSpeed knows and growth does not: weights kept in further places would stay ungrown."""
    zero = _section(config, "zero_optimization")
    if zero.get("zero_hpz_partition_size", 1) != 1:
        raise UserError(f"{origin}: zero_optimization.zero_hpz_partition_size: not supported with growth; remove the key")
    if _section(config, "zero_optimization.offload_param").get("device") == "nvme":
        raise UserError(f"{origin}: zero_optimization.offload_param.device: nvme is not supported with growth; cpu would do")


def _check_sections(config: dict[str, Any], origin: str) -> None:
    """Let DeepSpeed's own models judge the values, before anything is begun."""
    for section, model in _SECTIONS.items():
        try:
            model(**_section(config, section))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join([section, *map(str, first["loc"])])
            raise UserError(f"{origin}: {where}: {first['msg']} (got {first['input']!r})") from None


def _resolve_batch(config: dict[str, Any], recipe: Recipe, world_size: int, origin: str) -> None:
    batch = _number(config, "train_batch_size", recipe.train_batch_size, origin)
    most = _number(config, "train_micro_batch_size_per_gpu", recipe.train_micro_batch_size_per_gpu, origin)
    if batch % world_size:
        raise UserError(
            f"{origin}: train_batch_size {batch} does not divide over {world_size} ranks; choose a multiple of {world_size}"
        )
    share = batch // world_size
    micro = max(size for size in range(1, min(most, share) + 1) if share % size == 0)
    steps = _number(config, "gradient_accumulation_steps", share // micro, origin)
    if steps * micro != share:
        raise UserError(
            f"{origin}: gradient_accumulation_steps {steps} does not fit: train_batch_size {batch} on {world_size} ranks in "
            f'micro-batches of {micro} accumulates {share // micro} times; say "auto"'
        )
    config["train_batch_size"] = batch
    config["train_micro_batch_size_per_gpu"] = micro
    config["gradient_accumulation_steps"] = steps


def _number(config: dict[str, Any], key: str, recipe_value: int, origin: str) -> int:
    value = config.get(key, AUTO)
    if value == AUTO:
        return recipe_value
    if not isinstance(value, int) or value < 1:
        raise UserError(f'{origin}: {key}: a positive number or "auto" is expected (got {value!r})')
    return value


def _resolve_precision(config: dict[str, Any], origin: str) -> None:
    if config.get("fp16", {}).get("enabled") == AUTO:
        config["fp16"]["enabled"] = False
    bf16 = config.get("bf16", {})
    if bf16.get("enabled") == AUTO:
        bf16["enabled"] = not config.get("fp16", {}).get("enabled") and _has_bf16()
    if config.get("fp16", {}).get("enabled") and not get_accelerator().is_fp16_supported():
        raise UserError(f"{origin}: fp16.enabled: this device does not run fp16; bf16 or fp32 would do")
    if zero_stage(config) == 0 and compute_dtype(config) is not torch.float32:
        raise UserError(
            f"{origin}: zero_optimization.stage: stage 0 runs in fp32 only here; stage 1 costs one rank nothing more"
        )


def _has_bf16() -> bool:
    """Whether bf16 is computed in hardware; CPUs without it emulate it more slowly than fp32."""
    accelerator = get_accelerator()
    if accelerator.device_name() != "cpu":
        return accelerator.is_bf16_supported()
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
