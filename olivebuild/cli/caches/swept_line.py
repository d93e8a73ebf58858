"""The line of a result that a sweep takes."""

from __future__ import annotations

import time

from olivebuild.cache.gc import Result


def line_of(result: Result) -> str:
    """Return a result's line: `412 MB  adapter    41 days ago  /home/me/tone`."""
    from olivebuild.core.text import size

    days = max(0, int((time.time() - result.used) / 86400))
    age = "today" if days == 0 else "yesterday" if days == 1 else f"{days} days ago"
    name = result.target or result.kind
    return f"{size(result.size):>10}  {name:<14} {age:<14} {result.recipe}".rstrip()
