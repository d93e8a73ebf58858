"""A mapping of the file with typed access to its values; each look-up that fails is a refusal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from olivebuild.recipe.importers.olive.ledger import Ledger
from olivebuild.recipe.importers.positions import Path, Placeholder

T = TypeVar("T", bool, int, float, str)

_CALLED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
}


class Section:
    """A mapping of the file at `path`."""

    def __init__(self, ledger: Ledger, path: Path, value: dict[str, object]) -> None:
        self.ledger = ledger
        self.path = path
        self.value = value

    def __contains__(self, key: str) -> bool:
        return key in self.value

    def at(self, key: str) -> Path:
        return (*self.path, key)

    def get(self, key: str, kind: type[T]) -> T | Placeholder | None:
        """Return a scalar; None if it is not there, null, or of another type (then refused).

        A whole number stands for a float, and 3.0 for 3. Text such as "0.1" is no number.
        """
        value = self.value.get(key)
        if value is None or isinstance(value, Placeholder):
            return value
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return kind(value)
        if kind is int and isinstance(value, float) and value.is_integer():
            return kind(value)
        if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            return value
        self.wrong(key, _CALLED[kind])
        return None

    def section(self, key: str) -> Section | None:
        """Return a mapping below; None if it is not there, null, or something else (refused)."""
        value = self.value.get(key)
        if isinstance(value, dict):
            return Section(self.ledger, self.at(key), value)
        if value is not None:
            self.wrong(key, _CALLED[dict])
        return None

    def items(self, key: str) -> list[tuple[Path, object]]:
        """Return a list's items with their paths; a single value counts as a list of one."""
        value = self.value.get(key)
        if isinstance(value, list):
            return [((*self.at(key), i), item) for i, item in enumerate(value)]
        return [] if value is None else [(self.at(key), value)]

    def texts(self, key: str) -> list[str] | Placeholder | None:
        """Return a text or list of texts as a list; None if not there or wrong (then refused)."""
        value = self.value.get(key)
        if value is None or isinstance(value, Placeholder):
            return value
        items = value if isinstance(value, list) else [value]
        texts = [item for item in items if isinstance(item, str)]
        if len(texts) != len(items):
            self.wrong(key, "text, or a list of texts")
            return None
        return texts

    def mapped(self, key: str, field: str, note: str = "") -> None:
        self.ledger.mapped(self.at(key), field, note)

    def no_effect(self, key: str, because: str) -> None:
        self.ledger.no_effect(self.at(key), because)

    def meant_else(self, key: str, does: str, field: str = "") -> None:
        self.ledger.meant_else(self.at(key), does, field)

    def refused(self, key: str, fact: str, hint: str, *, fatal: bool = True) -> None:
        self.ledger.refused(self.at(key), fact, hint, fatal=fatal)

    def wrong(self, key: str, expected: str) -> None:
        """Refuse a value of the wrong type."""
        kind = _kind(self.value.get(key))
        self.refused(key, f"{key} is {kind} where {expected} must stand", f"write {expected}")

    def unknown(self, keys: Iterable[str]) -> None:
        """Refuse every leaf below that is in no list; `keys` are the possible ones here."""
        self.ledger.unknown(self.path, keys)


def _kind(value: object) -> str:
    """Return what a value is called in a message."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    names = {list: "a list", dict: "a mapping", str: "text", float: "a number", int: "a number"}
    return names.get(type(value), "a placeholder")


def config_of(section: Section) -> Section:
    """Return the options of `{type, config: {...}}`, or of the flattened form.

    From 0.7 on the fields of `config` may stand beside `type`. Both at once are one mapping, in
    which `config` wins, as in Olive.
    """
    nested = section.section("config")
    return nested if nested is not None else section
