"""Corpora in, memory-mapped token shards out."""
