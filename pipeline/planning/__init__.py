"""Which schedule of sizes reaches a target's loss for the least compute: a law fitted on runs, and a search by it."""
