"""What a run keeps on disk: whose the directory is, checkpoints, exported models."""
