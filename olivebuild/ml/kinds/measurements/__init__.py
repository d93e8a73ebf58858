"""Runners of the nodes that a benchmark is made of."""
