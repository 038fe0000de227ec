"""What the words and sentences of a text are."""
