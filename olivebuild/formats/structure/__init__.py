"""Structures of models: what decides how fast they run."""
