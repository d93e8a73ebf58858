"""What a conversion does to the weights that are trained."""
