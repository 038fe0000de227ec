"""Tokenizers: loaded, held against their files, trained, and compared."""
