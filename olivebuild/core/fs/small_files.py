"""Files that are small by nature and come from anyone.

A recipe, a configuration, a tokenizer: a long one is not read, and no nesting ends us.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from olivebuild.core.errors import InputError
from olivebuild.core.fs.opening import open_at_once

MOST = 256 << 20
"""Bytes. The longest tokenizers have some 40 MB."""


def special(mode: int) -> str:
    """Return what a thing is called that is neither file nor folder, and may never end.

    Empty for those two.
    """
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return ""
    return (
        "a named pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
    )


def check_size(file: Path) -> None:
    """Raises InputError for a file that is too long for what its name says."""
    if kind := special(file.stat().st_mode):
        raise InputError(
            f"{file.name} is {kind}, not a file", where=str(file), hint="is it what its name says?"
        )
    if file.stat().st_size > MOST:
        raise InputError(
            f"{file.name} {_long(file)}", where=str(file), hint="is it what its name says?"
        )


def read_bytes(file: Path) -> bytes:
    """Raises OSError, or ValueError for a long file, or for none."""
    # A pipe would be waited for already when it is opened.
    with open(file, "rb", opener=lambda name, _flags: open_at_once(name)) as f:
        if kind := special(os.fstat(f.fileno()).st_mode):
            raise ValueError(f"it is {kind}, not a file")
        if os.fstat(f.fileno()).st_size > MOST:
            raise ValueError(f"it {_long(file)}")
        return f.read()


def read_text(file: Path) -> str:
    """Text in UTF-8. Raises OSError or ValueError."""
    return read_bytes(file).decode("utf-8")


def read_json(file: Path) -> Any:
    """Raises OSError or ValueError."""
    return parse_json(read_text(file))


def parse_json(text: str | bytes) -> Any:
    """Raises ValueError, also for what is nested too deep to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _long(file: Path) -> str:
    return (
        f"has {file.stat().st_size >> 20} MiB, which is more than any such file needs "
        f"({MOST >> 20})"
    )
