"""Analytic FLOPs of every step, and the ledger that adds them up. A multiply-add counts 2."""
