"""Signed results: what signatures cover, which results count, and which are withdrawn."""
