"""What a run is: typed, validated, printable."""

from pipeline.recipe.data import DataConfig
from pipeline.recipe.ds_file import AUTO, read_ds_config
from pipeline.recipe.growth import DepthName, GrowthConfig, WidthName
from pipeline.recipe.loading import load_recipe, read_recipe, taken_by_auto
from pipeline.recipe.models import ModelConfig, TargetConfig
from pipeline.recipe.phases import GROWN_STAGE, SOURCE_STAGE, ModelPhase
from pipeline.recipe.recipe import Recipe, SourceConfig
from pipeline.recipe.settings import (
    CheckpointingConfig,
    EvaluationConfig,
    FlopsConfig,
    GuardConfig,
    OptimizerConfig,
    RouterConfig,
)
from pipeline.recipe.stages import UNITS, GroupConfig, GrowStage, LengthConfig, ScheduleConfig, TrainStage

__all__ = [
    "AUTO",
    "GROWN_STAGE",
    "SOURCE_STAGE",
    "UNITS",
    "CheckpointingConfig",
    "DataConfig",
    "DepthName",
    "EvaluationConfig",
    "FlopsConfig",
    "GroupConfig",
    "GrowStage",
    "GrowthConfig",
    "GuardConfig",
    "LengthConfig",
    "ModelConfig",
    "ModelPhase",
    "OptimizerConfig",
    "Recipe",
    "RouterConfig",
    "ScheduleConfig",
    "SourceConfig",
    "TargetConfig",
    "TrainStage",
    "WidthName",
    "load_recipe",
    "read_ds_config",
    "read_recipe",
    "taken_by_auto",
]
