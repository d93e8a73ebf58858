"""The parts of a node's key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from olivebuild.api.node import Node
from olivebuild.cache.key import Part, version_label


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
    """Return the parts of a node's key, in a fixed order.

    `inputs` and `files` are (label, digest, text to show).
    """
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
