"""Values of declared types, from JSON; several threads may begin at once.

msgspec fills in what it knows of a Struct while one is made first. A second thread that makes one
meanwhile reads what is not there yet, and the process ends by SIGSEGV (seen in 0.22:
`StructInfo_Convert` names the fields before their types are known). Here a type is made known by
one thread.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
_known: dict[Any, msgspec.json.Decoder[Any]] = {}
_making_known = threading.Lock()


def decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    """Return what makes a `kind` of JSON text; the same each time."""
    if (found := _known.get(kind)) is None:
        with _making_known:
            found = _known.setdefault(kind, msgspec.json.Decoder(kind))
    return found


def decode(text: str | bytes | memoryview, kind: type[T]) -> T:
    """Return JSON text as a `kind`.

    Raises msgspec.MsgspecError where it is none, UnicodeError, RecursionError.
    """
    result: T = decoder(kind).decode(text)
    return result


def convert(value: object, kind: type[T]) -> T:
    """Return what JSON has as a `kind`. Raises msgspec.ValidationError where it is none."""
    decoder(kind)
    return msgspec.convert(value, kind)
