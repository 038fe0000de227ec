"""What a preparation does: drafted, frozen, and held against what there is."""
