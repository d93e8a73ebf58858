"""The versions of a recipe's models that were exported: a file of lines beside its history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from olivebuild.core import hashing
from olivebuild.core.fs import opening
from olivebuild.core.fs.files import sync_file
from olivebuild.core.fs.locks import locked
from olivebuild.core.text import clean
from olivebuild.core.values.strict_json import decode


class Shipment(Struct, frozen=True, kw_only=True):
    """An export: of what, when (UTC), to where, and whether against its gates."""

    target: str
    digest: str
    time: str
    place: str
    delta: bool = False
    doubts: tuple[str, ...] = ()
    """Why its gates would not have let it out."""


def file_of(history: Path) -> Path:
    """Return the file of the shipments that belong to a history's file."""
    return history.with_suffix(".shipped")


def append(history: Path, shipment: Shipment) -> None:
    """Write a shipment. Raises OSError."""
    file = file_of(history)
    file.parent.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.encode(shipment)
    with locked(history.with_suffix(".lock")):
        with open(file, "ab+", buffering=0) as f:
            torn = f.tell() and (f.seek(-1, 2), f.read(1))[1] != b"\n"
            f.write(
                (b"\n" if torn else b"") + hashing.of_bytes(text).encode() + b" " + text + b"\n"
            )
        sync_file(file)


def read(history: Path) -> list[Shipment]:
    """Return the shipments that can be read, the oldest first. The content raises nothing."""
    try:
        lines = opening.read(file_of(history)).split(b"\n")
    except OSError:
        return []
    return [shipment for line in lines for shipment in _parsed(line)]


def _parsed(line: bytes) -> Iterator[Shipment]:
    check, _, text = line.partition(b" ")
    if text and hashing.of_bytes(text).encode() == check:
        try:
            yield decode(text, Shipment, strict=False)
        except ValueError:
            return


def lines(shipments: Sequence[Shipment], count: int) -> Iterator[str]:
    """Yield a line for each of the last shipments."""
    for one in shipments[-count:]:
        time = one.time.replace("T", " ").rstrip("Z")
        what = "delta of " if one.delta else ""
        although = f", although {one.doubts[0]}" if one.doubts else ""
        yield clean(
            f"shipped  {time}  {what}{one.target} {one.digest[:12]} as {one.place}{although}"
        )
