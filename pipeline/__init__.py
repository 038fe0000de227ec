"""Grow pre-trained language models and train them on, under DeepSpeed."""
