"""From inputs to parts: bounded pieces of cleaned documents."""
