"""What GGUF files are written of."""
