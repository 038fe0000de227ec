"""The papers' comparison, run from one file: sources, a sweep of the baseline's rate, methods, ablations, seeds."""
