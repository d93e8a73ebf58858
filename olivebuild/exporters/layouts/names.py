"""The names of the layouts, which the command line knows before anything is imported."""

from __future__ import annotations

FOLDER = "folder"
LAYOUTS = {
    FOLDER: "the target's own files",
    "mlflow": "a model of MLflow",
    "foundry-local": "a model in the cache of Foundry Local",
}
"""Name -> what it is."""
