"""What a step hands back. Alone in a file, so that a worker need not import what planning knows of steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """What a worker reports at its end: digests that say more than bytes, figures for the trace, a folder referenced in place.

    `manifest` is the blob of a manifest that the step stored itself, instead of writing files.
    """

    digests: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, object] = field(default_factory=dict)
    provenance: dict[str, object] = field(default_factory=dict)
    reference: Path | None = None
    manifest: str = ""
