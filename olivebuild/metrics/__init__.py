"""Metrics: gates, comparisons, statistics, Pareto fronts. Knows no models and no torch."""
