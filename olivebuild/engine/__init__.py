"""Execution: the build loop, its order, what it records. Decides nothing that a plan has not."""
