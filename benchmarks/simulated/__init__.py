"""What the simulated cluster of scale.py takes as measured."""
