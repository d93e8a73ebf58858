"""Records of JSON objects that keep the keys they do not know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, TypeGuard, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import force_setattr

from olivebuild.core.values.typed import convert

T = TypeVar("T")
_CONTAINERS = (dict, list, tuple)


class Record(Struct, frozen=True, kw_only=True):
    """A JSON object."""

    # No key is called so: what a later version writes goes into `extra` as a whole.
    extra: dict[str, Any] = msgspec.field(default_factory=dict, name="*")
    """Keys that this version has no field for."""

    def get(self, name: str) -> Any:
        """Return the value of a key, known or not; None where it is missing."""
        if name in _keys(type(self)):
            return getattr(self, name)
        return self.extra.get(name)

    def scalars(self) -> Iterator[tuple[str, str | int | float]]:
        """Yield the keys that hold a number or text: the known ones in their order, then others."""
        for name in (*_keys(type(self)), *self.extra):
            value = self.get(name)
            if isinstance(value, str | int | float):
                yield name, value


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a JSON value is a number (NaN is one, a truth value is none)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def pair(interval: object) -> tuple[float, float] | None:
    """Return the ends of an interval; None where it has none."""
    match interval:
        case [low, high] if is_number(low) and is_number(high):
            return float(low), float(high)
    return None


def decode(source: object, kind: type[T]) -> T:
    """Return JSON data as a record, or as a container of records.

    Raises ValueError with the place of the first value that is not of its type.
    """
    try:
        record = convert(source, kind)
    except (msgspec.MsgspecError, OverflowError, RecursionError) as e:
        raise ValueError(str(e)) from None
    _keep_extra(record, source)
    return record


@cache
def _keys(kind: type[Record]) -> dict[str, None]:
    """Return the JSON keys that a record has fields for, in the order of its fields."""
    return dict.fromkeys(name for name in kind.__struct_fields__ if name != "extra")


def _keep_extra(record: object, source: object) -> None:
    """Put the keys of JSON objects that their records have no fields for into `extra`."""
    if isinstance(source, Mapping):
        if isinstance(record, Record):
            _keep_extra_of(record, source)
        elif isinstance(record, dict):
            for name, value in record.items():
                _keep_extra(value, source[name])
    elif isinstance(record, tuple | list) and isinstance(source, tuple | list):
        pairs = zip(record, source, strict=True)
        for value, json in pairs if isinstance(next(iter(source), None), _CONTAINERS) else ():
            _keep_extra(value, json)


def _keep_extra_of(record: Record, source: Mapping[str, Any]) -> None:
    keys = _keys(type(record))
    extra = {}
    for name, value in source.items():
        if name not in keys:
            extra[name] = value
        # Numbers and text are most of it, and hold nothing.
        elif isinstance(value, _CONTAINERS):
            _keep_extra(getattr(record, name), value)
    if extra:
        force_setattr(record, "extra", extra)
