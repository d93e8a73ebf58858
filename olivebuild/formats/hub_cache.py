"""Contents of the hub's cache on this disk.

Its layout, and the list of files that the hub's client keeps there. Asks nobody.

https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

from __future__ import annotations

import json
import os
from fnmatch import fnmatch
from pathlib import Path

from olivebuild.core.fs import opening
from olivebuild.formats.source import Source

SMALL = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.py")
"""All of a model but its weights."""


NOT_THERE = "is not there, or is private and you may not read it"
"""What is said of a repository that the hub does not show."""


def is_offline() -> bool:
    """Return whether the environment keeps the hub's client from asking."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def cache() -> Path:
    environment = os.environ
    place = environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE")
    home = environment.get("HF_HOME") or os.path.join(
        environment.get("XDG_CACHE_HOME") or os.path.join("~", ".cache"), "huggingface"
    )
    return Path(os.path.expanduser(os.path.expandvars(place or os.path.join(home, "hub"))))


def _repository(source: Source) -> Path:
    return cache() / f"models--{source.name.replace('/', '--')}"


def listed(source: Source, commit: str) -> set[str]:
    """Return the names of all files of a pinned model, as the hub's client was told them.

    Empty where it was not, or keeps no such list.
    """
    try:
        return set(
            json.loads(opening.read(_repository(source) / "trees" / f"{commit}.json"))["files"]
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()


def small_files_of(source: Source, commit: str) -> Path | None:
    """Return the folder of a pinned model, if all of its small files are known to be in it.

    Its weights may be there or not.
    """
    folder, names = _repository(source) / "snapshots" / commit, listed(source, commit)
    complete = all(
        (folder / name).is_file()
        for name in names
        if any(fnmatch(name, pattern) for pattern in SMALL)
    )
    return folder if names and complete else None
