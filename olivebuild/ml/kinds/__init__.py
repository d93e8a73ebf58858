"""Runners: one module a kind, whose `run(job)` makes the artifact."""
