"""Nodes that share the batches of a training."""
