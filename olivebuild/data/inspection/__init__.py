"""Inspection of rows that nobody has described: their columns, the input and the answer."""
