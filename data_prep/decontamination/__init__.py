"""Passages of evaluation sets in text that is trained on: found by the n-grams of words that both have."""
