"""The run: engines, stages, freezing, checkpoints, signals, metrics."""
