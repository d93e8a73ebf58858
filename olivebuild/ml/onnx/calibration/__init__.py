"""Rounding of weights to 4 bits with the inputs in mind that their products get."""
