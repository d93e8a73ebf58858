"""Metrics of models: gates, comparisons, statistics, Pareto fronts. Knows neither models nor torch."""
