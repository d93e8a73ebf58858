"""The order in which nodes are made."""
