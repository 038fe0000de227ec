"""From inputs to parts: bounded runs of cleaned documents."""
