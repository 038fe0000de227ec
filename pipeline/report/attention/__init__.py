"""The attention gallery: what growth makes of heads, and what training makes of what growth made."""
