"""What a run tells while it goes on, and what ends one that stands still."""
