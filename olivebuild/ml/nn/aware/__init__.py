"""Training that sees weights as a conversion will round them."""
