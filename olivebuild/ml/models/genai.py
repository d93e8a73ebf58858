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
    try:
        return og.Model(str(folder))
    except UnicodeDecodeError:
        # pybind11 makes text of the runtime's message, which quotes the bytes of a damaged file.
        raise RuntimeError(
            "a file is damaged, and what the runtime says of it is no text"
        ) from None
