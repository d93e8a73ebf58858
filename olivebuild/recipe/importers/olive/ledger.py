"""The ledger of an import: every leaf of the file in exactly one of four lists.

A leaf is a scalar, or an empty mapping or list. What no mapper claims is refused as an unknown
field, so nothing is dropped without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

from olivebuild.core.errors import RecipeError
from olivebuild.core.text import did_you_mean
from olivebuild.recipe.importers.positions import Document, Path, Placeholder, shown


class Fate(IntEnum):
    """List that a leaf is in: what became of it. Of two claims on one leaf the greater stands."""

    NO_EFFECT = 1
    """Without effect here: the entry's `text` says why."""
    MAPPED = 2
    """Mapped to the recipe's field that `field` names."""
    MEANT_ELSE = 3
    """Meant something else than it says: `text` says what Olive does with it."""
    REFUSED = 4
    """Refused: `text` is the fact, `hint` what to do."""


NAMES = {
    Fate.MAPPED: "mapped",
    Fate.NO_EFFECT: "without effect here",
    Fate.MEANT_ELSE: "meant something else than it says",
    Fate.REFUSED: "refused",
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A leaf of the file and what became of it."""

    path: Path
    line: int
    value: object
    fate: Fate
    field: str = ""
    """The recipe's field, such as `lora.training.lr`; several are joined by a comma."""
    text: str = ""
    hint: str = ""
    fatal: bool = False
    """A refusal without which no recipe would mean what the file does."""

    @property
    def placeholder(self) -> bool:
        return isinstance(self.value, Placeholder)


class Ledger:
    """Claims on the leaves of one file.

    Each method takes the path of a leaf, or of a mapping or list: then all leaves below it that
    have no claim of their own.
    """

    def __init__(self, document: Document) -> None:
        self.document = document
        self._leaves = document.leaves()
        self._below: dict[Path, list[Path]] = {}
        for leaf in self._leaves:
            for n in range(len(leaf) + 1):
                self._below.setdefault(leaf[:n], []).append(leaf)
        self._entries: dict[Path, Entry] = {}

    def mapped(self, path: Path, field: str, note: str = "") -> None:
        """Note that a value went into a field of the recipe, such as `adapter.training.lr`."""
        self._claim(path, Fate.MAPPED, field=field, text=note)

    def no_effect(self, path: Path, because: str) -> None:
        """Note that a value changes nothing here, and why: a clause without its full stop."""
        self._claim(path, Fate.NO_EFFECT, text=because)

    def meant_else(self, path: Path, does: str, field: str = "") -> None:
        """Note that Olive does not do what the value says, and what it does instead.

        `field`: the recipe's field, if the recipe says what Olive does.
        """
        self._claim(path, Fate.MEANT_ELSE, field=field, text=does)

    def refused(self, path: Path, fact: str, hint: str, *, fatal: bool = True) -> None:
        """Note that there is no recipe for a value. `fatal=False`: a recipe is written without.

        Where all leaves below `path` have claims of their own, the first of them is refused.
        """
        self._claim(path, Fate.REFUSED, text=fact, hint=hint, fatal=fatal)
        leaves = self._below[path]
        if all(self._entries[leaf].fate is not Fate.REFUSED for leaf in leaves):
            self._claim(leaves[0], Fate.REFUSED, text=fact, hint=hint, fatal=fatal)

    def unknown(self, path: Path, keys: Iterable[str]) -> None:
        """Refuse what is left below `path` as unknown fields; `keys` are its possible ones."""
        names = list(keys)
        for leaf in self.unclaimed(path):
            key = leaf[len(path)] if len(leaf) > len(path) else leaf[-1] if leaf else ""
            fact = f"unknown field {key!r}" if isinstance(key, str) else "a value with no meaning"
            hint = did_you_mean(str(key), names) if names else "take it out"
            self._claim(leaf, Fate.REFUSED, text=fact, hint=hint, fatal=True)

    def unclaimed(self, path: Path = ()) -> list[Path]:
        """Return the leaves at and below a path that are in no list yet."""
        return [leaf for leaf in self._below.get(path, ()) if leaf not in self._entries]

    def close(self) -> list[Entry]:
        """Return every leaf's entry in the order of the file, having refused what is left."""
        self.unknown((), ())
        entries = [self._entries[leaf] for leaf in self._leaves]
        assert len(entries) == len(self._leaves) == len(self._entries)
        return entries

    def refusals(self) -> Iterator[Entry]:
        return (e for e in self._entries.values() if e.fate is Fate.REFUSED)

    def error(self, path: Path, fact: str, hint: str) -> RecipeError:
        """Return an error with the place and the JSON path of a value."""
        return RecipeError(f"{shown(path)}: {fact}", where=self.document.where(path), hint=hint)

    def _claim(
        self,
        path: Path,
        fate: Fate,
        *,
        field: str = "",
        text: str = "",
        hint: str = "",
        fatal: bool = False,
    ) -> None:
        assert path in self._below, f"{shown(path)} is not in the file"
        leaves = self._below[path]
        for leaf in leaves:
            entry = Entry(
                path=leaf,
                line=self.document.line(leaf),
                value=self._leaves[leaf],
                fate=fate,
                field=field,
                text=text,
                hint=hint,
                fatal=fatal,
            )
            before = self._entries.get(leaf)
            if before is None:
                self._entries[leaf] = entry
            elif leaf == path and fate > before.fate:
                kept = before.field if fate is Fate.MEANT_ELSE else ""
                self._entries[leaf] = replace(entry, field=field or kept)
            elif leaf == path and fate is before.fate is Fate.MAPPED:
                self._entries[leaf] = replace(before, field=_joined(before.field, field))


def _joined(fields: str, more: str) -> str:
    names = [name for name in fields.split(", ") if name]
    return ", ".join(dict.fromkeys([*names, more]) if more else names)
