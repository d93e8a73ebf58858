"""Parts -> key, and parts against parts -> reasons.

The only place that decides what makes an action's output what it is.

One list of parts is both hashed and compared, so that an explanation can't drift from the key. A
part's `shown` text is for people and is not hashed: names and paths never enter a key.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from olivebuild.core import hashing

FORMAT = "1"


class Part(Struct, frozen=True):
    """One thing that can change the output.

    `cause` is what kind of thing: step, parameter, input, file, source, library, machine,
    environment.
    """

    cause: str
    label: str
    value: str
    shown: str = ""

    @property
    def what(self) -> str:
        return self.shown or self.label


class Reason(Struct, frozen=True):
    """Why a target is not fresh: what differs, from what to what.

    `old` or `new` is None where there is none.
    """

    cause: str
    what: str
    old: str | None = None
    new: str | None = None


def version_label(kind: str) -> str:
    """Return how people see the part that holds a step's version."""
    return f"the {kind} step's version"


def key_of(parts: Iterable[Part]) -> str:
    return hashing.of_json([FORMAT, [[p.cause, p.label, p.value] for p in parts]])


def compare(old: Iterable[Part], new: Iterable[Part]) -> list[Reason]:
    """Return what differs between two lists of parts.

    In the order of the new one, with what is gone at the end.
    """
    before = {(p.cause, p.label): p for p in old}
    reasons = []
    for part in new:
        old_part = before.pop((part.cause, part.label), None)
        if old_part is None or old_part.value != part.value:
            reasons.append(
                Reason(part.cause, part.what, old_part.value if old_part else None, part.value)
            )
    reasons += [Reason(p.cause, p.what, p.value, None) for p in before.values()]
    return reasons
