"""Decisions before the last row: what gates say while rows are judged, and `--decide`."""
