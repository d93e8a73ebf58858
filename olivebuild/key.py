"""Parts -> key, and parts against parts -> reasons.

The only place that decides what makes an action's output what it is.

One list of parts is both hashed and compared, so that an explanation can't drift from the key. A
part's `shown` text is for
people and is not hashed: names and paths never enter a key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from olivebuild import digest
from olivebuild.node import Node

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


def parts_of(
    node: Node,
    inputs: Iterable[tuple[str, str, str]],
    files: Iterable[tuple[str, str, str]],
    source: str | None,
    libraries: Mapping[str, str],
    machine: Mapping[str, str],
    dates: Iterable[Part] = (),
    variables: Mapping[str, str] = {},
) -> tuple[Part, ...]:
    """The parts of a node, in a fixed order. `inputs` and `files` are (label, digest, shown)."""
    result = [
        Part("step", "kind", node.kind),
        Part("step", "version", str(node.version), version_label(node.kind)),
    ]
    result += (Part("parameter", label, value) for label, value in node.parameters)
    result += dates
    result += (Part("input", label, value, shown) for label, value, shown in inputs)
    result += (Part("file", label, value, shown) for label, value, shown in files)
    if source is not None:
        result.append(Part("source", "source", source))
    result += (Part("library", name, version) for name, version in libraries.items())
    result += (Part("machine", name, value) for name, value in machine.items())
    result += (Part("environment", name, value) for name, value in variables.items())
    return tuple(result)


def version_label(kind: str) -> str:
    """How people see the part that holds a step's version."""
    return f"the {kind} step's version"


def key_of(parts: Iterable[Part]) -> str:
    return digest.of_json([FORMAT, [[p.cause, p.label, p.value] for p in parts]])


def compare(old: Iterable[Part], new: Iterable[Part]) -> list[Reason]:
    """What differs between two lists of parts, in the order of the new one, what is gone at the
    end.
    """
    before = {(p.cause, p.label): p for p in old}
    reasons = []
    for part in new:
        known = before.pop((part.cause, part.label), None)
        if known is None or known.value != part.value:
            reasons.append(
                Reason(part.cause, part.what, known.value if known else None, part.value)
            )
    reasons += [Reason(p.cause, p.what, p.value, None) for p in before.values()]
    return reasons
