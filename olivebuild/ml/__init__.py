"""The work itself, imported in workers only. Knows actions, not plans."""
