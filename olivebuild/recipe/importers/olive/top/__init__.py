"""Sections of Olive workflows that are no model, no data and no pass."""
