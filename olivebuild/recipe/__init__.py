"""Loading: recipe text to targets to a graph of nodes. Knows no keys and no cache."""
