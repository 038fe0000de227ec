"""Files: arrays on disk, digests of blocks, and those at stores."""
