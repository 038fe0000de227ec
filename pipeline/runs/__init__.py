"""Run directories as files: what lies where, and the records in them."""

from pipeline.runs.json_lines import JsonLines
from pipeline.runs.paths import RunPaths
from pipeline.runs.steps import StepLines
