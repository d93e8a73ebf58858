"""Records of sweeps of a remote cache (ml/transfer/sweep.py): what is asked, and what goes."""

from __future__ import annotations

from msgspec import Struct


class Limits(Struct, frozen=True, kw_only=True):
    """`age` in seconds since the last use; `size` of all blobs in bytes, None for no limit."""

    age: float
    size: int | None = None
    delete: bool = False


class SweptResult(Struct, frozen=True, kw_only=True):
    """A result that goes. `unused` for so many seconds; `size`: the bytes that go with it."""

    key: str
    kind: str
    unused: float
    size: int


class RemoteSweep(Struct, frozen=True, kw_only=True):
    """What goes, or went. Sizes are of blobs, in bytes."""

    results: tuple[SweptResult, ...]
    total: int
    freed: int
    loose: int
    """Of `freed`, those of no result."""
    damaged: int
    """Objects that should be results and are none."""
    strange: int
    """Objects that olivebuild has not written; they stay."""
    kept: int
    """Results that stay."""
