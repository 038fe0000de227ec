"""Which documents are dropped because another one says the same."""
