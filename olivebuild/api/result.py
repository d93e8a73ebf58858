"""Result of a step.

Alone in a file, so that a worker need not import what planning knows of steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Result(NamedTuple):
    """Report of a worker at its end.

    Digests that say more than bytes, metrics for the trace, a folder referenced in place.

    `manifest` is the blob of a manifest that the step stored itself, instead of writing files.
    """

    digests: Mapping[str, str] = {}
    metrics: Mapping[str, object] = {}
    provenance: Mapping[str, object] = {}
    reference: Path | None = None
    manifest: str = ""
