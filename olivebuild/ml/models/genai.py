"""onnxruntime-genai's models, opened in one place: what a folder has it load is looked at
before.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from olivebuild.formats import imported


def open_model(folder: Path, *, trust: bool) -> Any:
    """Raises InputError for what takes the recipe's trust, RuntimeError for what the runtime
    refuses.
    """
    imported.check(folder, "onnx", str(folder), trust=trust)
    import onnxruntime_genai as og

    og.disable_telemetry_events()
    return og.Model(str(folder))
