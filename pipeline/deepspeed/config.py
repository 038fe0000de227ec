"""DeepSpeed's own judgement of its JSON."""

import copy
from typing import Any

import torch
from deepspeed.comm.config import CommsLoggerConfig
from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError, DtypeEnum
from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.runtime.zero.offload_config import DeepSpeedZeroOffloadOptimizerConfig, DeepSpeedZeroOffloadParamConfig
from pydantic import BaseModel

from pipeline.common.errors import one_line

SECTIONS: dict[str, type[BaseModel]] = {
    "bf16": DeepSpeedBF16Config,
    "fp16": DeepSpeedFP16Config,
    "zero_optimization": DeepSpeedZeroConfig,
    "zero_optimization.offload_optimizer": DeepSpeedZeroOffloadOptimizerConfig,
    "zero_optimization.offload_param": DeepSpeedZeroOffloadParamConfig,
    "comms_logger": CommsLoggerConfig,
}
"""The sections that have a model, those within others behind them; those of `monitors` have theirs there."""


def refusal(config: dict[str, Any]) -> str | None:
    """Return why DeepSpeed refuses a configuration; None where it takes it."""
    try:
        DeepSpeedConfig(copy.deepcopy(config))
    except (AssertionError, ValueError, TypeError, DeepSpeedConfigError) as error:
        return one_line(error, None)
    return None


def dtype_named(name: str) -> torch.dtype:
    """Return the dtype that one of DeepSpeed's names stands for."""
    return DtypeEnum(name).value
