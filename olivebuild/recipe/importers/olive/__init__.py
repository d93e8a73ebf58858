"""Olive workflows, of every release since 0.1, -> recipes."""
