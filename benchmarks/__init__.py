"""Measurements of olivebuild beside its peers, one script each."""
