"""The names of the layouts, which the command line knows before anything is imported."""

from __future__ import annotations

FOLDER = "folder"
LAYOUTS = {
    FOLDER: "the target's own files",
    "mlflow": "a model of MLflow",
    "foundry-local": "a model in the cache of Foundry Local",
    "gguf": "a file for llama.cpp, and what Ollama makes of it",
}
"""Name -> what it is."""
TYPES = ("f16", "q8_0", "q4_0")
"""Types of the numbers in matrices of a GGUF file."""
