"""Steps that each document goes through, one after the other: what changes it, and what drops it."""
