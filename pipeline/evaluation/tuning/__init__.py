"""Fine-tuning on GLUE and SQuAD, in the settings of bert2BERT's Table 2 (Chen et al. 2022)."""

from pipeline.evaluation.tuning.options import TuningOptions, add_arguments, options_of
from pipeline.evaluation.tuning.search import TUNING_TASKS, TuningTask, check_tuning, tune

__all__ = ["TUNING_TASKS", "TuningOptions", "TuningTask", "add_arguments", "check_tuning", "options_of", "tune"]
