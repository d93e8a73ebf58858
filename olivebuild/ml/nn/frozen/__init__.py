"""Frozen weights of the base: their number format, and where they lie while training."""
