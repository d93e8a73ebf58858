"""What leaves the project: folders and archives of models with their papers, and deltas of them."""
