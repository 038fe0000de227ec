"""A run from its recipe to its summary: resumed, grown from model to model, finished."""
