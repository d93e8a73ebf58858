"""onnxruntime-genai's models, opened in one place, after a check of the code they would load."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

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
        _load_cuda()
    try:
        return og.Model(str(folder))
    except UnicodeDecodeError:
        # pybind11 makes text of the runtime's message, which quotes the bytes of a damaged file.
        raise RuntimeError(
            "a file is damaged, and what the runtime says of it is no text"
        ) from None


def _load_cuda() -> None:
    """Load CUDA's libraries from the packages that pip installed, as torch does for its own.

    Without that, ONNX Runtime looks for them where the system has libraries.
    """
    import onnxruntime

    # Missing ones are told to standard output, and by the runtime once it needs them.
    with contextlib.redirect_stdout(sys.stderr):
        onnxruntime.preload_dlls()
