"""SHA-256 of files, as other programs' lists of digests have it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from olivebuild.core.fs import opening


def sha256_of(path: Path) -> str:
    """Return the digest in hexadecimal. Raises OSError."""
    with opening.open_file(path) as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
