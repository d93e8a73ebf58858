"""GGUF files, written of models of transformers."""
