"""Measurements: latency in turns, energy, scores."""
