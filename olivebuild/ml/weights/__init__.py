"""Weights tensor by tensor: views, LoRA merges, and the proofs of merges."""
