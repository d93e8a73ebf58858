"""Changes of a plan, and what has to be looked at for them."""
