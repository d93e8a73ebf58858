"""The work itself, imported in workers only: knows actions, not plans."""
