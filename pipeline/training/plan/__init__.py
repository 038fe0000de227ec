"""When a run does what: its stages with first and last step, their learning rates and their FLOPs."""
