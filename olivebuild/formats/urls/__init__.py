"""URLs by which sources that lie elsewhere are named."""
