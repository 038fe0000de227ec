"""What a run shows while it goes on, and what ends one that stands still."""
