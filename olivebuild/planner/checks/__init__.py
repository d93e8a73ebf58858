"""Findings: what is known at plan time to go wrong."""
