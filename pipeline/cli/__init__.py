"""The command lines, one module a command: read, and judged with the files they name, before anything slow is imported."""
