"""Windows over shards, their order, masks, and the batches that each rank takes."""
