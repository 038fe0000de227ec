"""The stages of a preparation, but for those of deduplication."""
