"""JSON text -> a frozen record.

What a cache holds is data from outside, so nothing is converted or taken on trust.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from olivebuild.core.values import typed

T = TypeVar("T")


def decode(text: str | bytes, kind: type[T], *, strict: bool = True) -> T:
    """Return JSON text as a `kind`.

    Raises ValueError when it is none, or, if strict, when it says more than one can hold.
    """
    try:
        record = typed.decode(text, kind)
        if strict:
            _all_known(msgspec.json.decode(text), msgspec.to_builtins(record))
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as e:
        raise ValueError(str(e)) from None
    return record


def _all_known(source: object, understood: object) -> None:
    if isinstance(source, dict) and isinstance(understood, dict):
        for name, value in source.items():
            if name not in understood:
                raise ValueError(f"an unknown field {name!r}")
            _all_known(value, understood[name])
    elif isinstance(source, list) and isinstance(understood, list | tuple):
        for one, other in zip(source, understood, strict=True):
            _all_known(one, other)
