"""Documents about a target for others: how it was made, and what is in it."""
