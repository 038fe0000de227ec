"""Growth: a state, and the plan that makes a larger state of it, row by row."""
