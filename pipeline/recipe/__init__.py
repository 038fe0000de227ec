"""What a run is: typed, validated, printable."""

from pipeline.recipe.data import DataConfig
from pipeline.recipe.ds_file import AUTO, read_ds_config
from pipeline.recipe.growth import DepthName, GrowthConfig, WidthName
from pipeline.recipe.loading import as_written, load_recipe, read_recipe, taken_by_auto
from pipeline.recipe.models import ModelConfig, TargetConfig
from pipeline.recipe.recipe import Recipe, SourceConfig
from pipeline.recipe.settings import (
    CheckpointingConfig,
    EvaluationConfig,
    FlopsConfig,
    GuardConfig,
    OptimizerConfig,
    RouterConfig,
)
from pipeline.recipe.stages import (
    GROWN_STAGE,
    SOURCE_STAGE,
    UNITS,
    GroupConfig,
    GrownPhase,
    GrowStage,
    LengthConfig,
    ModelPhase,
    ScheduleConfig,
    TrainStage,
)
