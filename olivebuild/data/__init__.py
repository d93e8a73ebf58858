"""Rows of data files: read, checked, filled into templates, split. Knows no tokens, no models."""
