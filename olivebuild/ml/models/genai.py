"""onnxruntime-genai's models, opened in one place, after a check of the code they would load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from olivebuild.formats import imported


def open_model(folder: Path, *, trust: bool) -> Any:
    """Open a folder as an onnxruntime-genai model.

    Raises InputError for a folder that takes the recipe's trust, RuntimeError for one that the
    runtime refuses.
    """
    imported.check(folder, "onnx", str(folder), trust=trust)
    import onnxruntime_genai as og

    og.disable_telemetry_events()
    return og.Model(str(folder))
