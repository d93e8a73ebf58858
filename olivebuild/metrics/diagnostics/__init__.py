"""Diagnostics: what a benchmark says of models, data and trainings without being asked."""
