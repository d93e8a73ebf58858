"""A seal on what we remember of a recipe.

A folder from elsewhere can't bring memories of its own that run commands.

The key is a random one of mode 0600 in the user's state folder: never in the cache, which others
may share, nor in the recipe's folder.
Where there can be no key, nothing is believed, and recipes are read afresh.
"""

from __future__ import annotations

import os
import stat
from functools import cache
from pathlib import Path

try:
    # Without OpenSSL, which hashlib loads first and which takes several milliseconds.
    from _blake2 import blake2b
except ImportError:
    from hashlib import blake2b

KEY_BYTES = 32
SEAL_BYTES = 16


def seal(data: bytes) -> str:
    """A keyed BLAKE2b (RFC 7693) of `data` in hex; empty where this user has no key."""
    key = _key()
    return blake2b(data, key=key, digest_size=SEAL_BYTES).hexdigest() if key else ""


def key_file() -> Path:
    from platformdirs import user_state_path

    return user_state_path("olivebuild", appauthor=False) / "key"


@cache
def _key() -> bytes:
    """Return the user's key, made on first use; empty if unreadable, or readable by others."""
    file = key_file()
    try:
        return _read(file) or _make(file)
    except OSError:
        return b""


def _read(file: Path) -> bytes:
    """Empty for what is missing, torn, or open to others."""
    try:
        handle = os.open(
            file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        )
    except FileNotFoundError:
        return b""
    with open(handle, "rb") as f:
        about = os.fstat(handle)
        ours = os.name != "posix" or (
            about.st_uid == os.geteuid() and not stat.S_IMODE(about.st_mode) & 0o077
        )
        data = f.read(KEY_BYTES + 1)
    return data if ours and len(data) == KEY_BYTES else b""


def _make(file: Path) -> bytes:
    """Raises OSError.

    Of two that make it at once, the second to name it wins, and the first's seals are made anew.
    """
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(handle, "wb") as f:
            f.write(os.urandom(KEY_BYTES))
        os.replace(beside, file)
    finally:
        beside.unlink(missing_ok=True)
    return _read(file)
