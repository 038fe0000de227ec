"""The steps of one model: batches, losses, evaluations, what becomes of a step that went wrong."""
