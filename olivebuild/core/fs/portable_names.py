"""Names of files that every system can hold: what is built on one may be restored on another.

Knows nothing of recipes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

DEVICES = frozenset(
    [
        "con",
        "prn",
        "aux",
        "nul",
        *(f"{port}{n}" for port in ("com", "lpt") for n in range(10)),
    ]
)
"""Windows gives these to devices, with any ending."""
NOT_IN_NAMES = '<>:"|?*\\'


def fault(path: str) -> str | None:
    """Why a relative path with / is no name of a file on every system; None if it is one."""
    for part in path.split("/"):
        if part.partition(".")[0].rstrip(" ").lower() in DEVICES:
            return f"{part!r} is a device on Windows"
        if part not in (".", "..") and part != part.rstrip(". "):
            return f"{part!r} ends with a dot or a space, which Windows drops"
        if character := next((c for c in part if c in NOT_IN_NAMES or ord(c) < 32), None):
            return f"{part!r} holds {character!r}, which Windows has no room for in a name"
        if len(part.encode("utf-8", "surrogatepass")) > 255:
            return f"{part[:20]!r}... is longer than 255 bytes"
    return None


def is_text(name: str) -> bool:
    """Return whether a name of a file is UTF-8 text.

    What is not can't be written into a manifest, a log or a report.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def clash(paths: Iterable[str]) -> tuple[str, str] | None:
    """Return two paths that are one file where case does not count; None if there are none.

    Nor does it count how letters with accents are written.
    """
    seen: dict[str, str] = {}
    for path in paths:
        alike = unicodedata.normalize("NFC", path).casefold()
        if seen.setdefault(alike, path) != path:
            return seen[alike], path
    return None
