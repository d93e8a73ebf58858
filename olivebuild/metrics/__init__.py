"""Gates, comparisons, statistics and Pareto fronts, without knowledge of models or torch."""
