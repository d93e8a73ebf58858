"""Child processes of our own: Python that imports nothing from the folder that it is started in."""

from __future__ import annotations

import sys


def python(*words: str, isolated: bool = True) -> list[str]:
    """A command line of the interpreter that runs olivebuild. `isolated`: the current folder and a script's own are no place to import from.

    A folder may be a stranger's, and hold a `json.py`.
    """
    return [sys.executable, *(["-P"] if isolated else []), *words]
