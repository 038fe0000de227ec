"""What trained models are worth on tasks: zero-shot perplexity, fine-tuning, and the records of both."""
