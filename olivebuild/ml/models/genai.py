"""onnxruntime-genai's models, opened in one place, after a check of the code they would load."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from olivebuild.core import host
from olivebuild.core.fs.small_files import read_json
from olivebuild.core.providers import load_cuda
from olivebuild.formats import imported
from olivebuild.formats.onnx_folder import CONFIG, providers_in

_threads: list[int] = []


def use_threads(count: int) -> None:
    """Have models that are opened from now on compute on so many threads; 0 for their own number.

    What they compute stays the same to the last bit: each number is summed up by one thread.
    """
    _threads[:] = [count] if count else []


def threads_of(folder: Path) -> int:
    """Return on how many threads a model opened now is to compute; 0 for its own number.

    ONNX Runtime may take the machine's cores for its own number, whichever of them it may use
    (`taskset`, a container's or a cluster's share of a node): threads that wait for each other on
    few cores took ten times as long.
    """
    if _threads:
        return _threads[0]
    usable = math.ceil(min(host.physical_cores(), host.cpu_quota()))
    if host.cores() == os.cpu_count() and usable == host.physical_cores():
        return 0
    try:
        session = read_json(folder / CONFIG)["model"]["decoder"].get("session_options") or {}
        return 0 if session.get("intra_op_num_threads") else usable
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        # What is wrong with it, the runtime says.
        return 0


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
        if not (count := threads_of(folder)):
            return og.Model(str(folder))
        config = og.Config(str(folder))
        options = {"session_options": {"intra_op_num_threads": count}}
        config.overlay(json.dumps({"model": {"decoder": options}}))
        return og.Model(config)
    except UnicodeDecodeError:
        # pybind11 makes text of the runtime's message, which quotes the bytes of a damaged file.
        raise RuntimeError(
            "a file is damaged, and what the runtime says of it is no text"
        ) from None
