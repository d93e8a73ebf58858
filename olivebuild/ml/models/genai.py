"""onnxruntime-genai's models, opened in one place, after a check of the code they would load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from olivebuild.core.providers import load_cuda
from olivebuild.formats import imported
from olivebuild.formats.onnx_folder import providers_in


def open_model(folder: Path, *, trust: bool) -> Any:
    """Open a folder as an onnxruntime-genai model.

    Raises InputError for a folder that takes the recipe's trust, RuntimeError for one that the
    runtime refuses.
    """
    imported.check(folder, "onnx", str(folder), trust=trust)
    import onnxruntime_genai as og

    # Releases for DirectML are older, and have none.
    if hasattr(og, "disable_telemetry_events"):
        og.disable_telemetry_events()
    if "cuda" in providers_in(folder):
        load_cuda()
    try:
        return og.Model(str(folder))
    except UnicodeDecodeError:
        # pybind11 makes text of the runtime's message, which quotes the bytes of a damaged file.
        raise RuntimeError(
            "a file is damaged, and what the runtime says of it is no text"
        ) from None
