"""Names of commands, which are no names for targets."""

from __future__ import annotations

NEWER_COMMANDS = (
    "apply",
    "ci",
    "export",
    "help",
    "history",
    "import",
    "provenance",
    "remote",
    "run",
    "serve",
    "show",
    "version",
)
"""Commands whose names targets may have: `olivebuild build NAME` builds such a target."""
# A target of one of these names could not be built by its name alone.
COMMANDS = frozenset(
    [
        "accept",
        "build",
        "chat",
        "clean",
        "compare",
        "doctor",
        "gc",
        "graph",
        "init",
        "log",
        "plan",
        "predict",
        "report",
        "schema",
        "status",
        "update",
        "verify",
        "watch",
        "why",
    ]
)
