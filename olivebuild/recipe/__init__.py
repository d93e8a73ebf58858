"""Loading of recipe text to targets to a graph of nodes, without knowledge of keys or cache."""
