"""Stages over a plan, their items shared among processes."""
