"""Passes of Olive workflows as targets of recipes."""
