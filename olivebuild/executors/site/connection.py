"""Connections: commands whose stdin and stdout reach an agent."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Protocol

from olivebuild.core.errors import BuildError, StepError
from olivebuild.core.processes import python

AGENT = "olivebuild.executors.site.agent"
"""The module that Python runs as an agent."""


class Connection(Protocol):
    """A way to an agent. It is opened anew wherever it was cut."""

    @property
    def label(self) -> str:
        """Return how messages call the site: `box (ssh)`."""

    @property
    def variables(self) -> Mapping[str, str]:
        """Return what is added to the environment of the command."""

    def argv(self, agent: Sequence[str]) -> list[str]:
        """Return the command that runs an agent with these words, and reaches it."""

    def is_cut(self, code: int) -> bool:
        """Return whether this exit code is the connection's own: the site may be well."""

    def problem(self, code: int, errors: str) -> BuildError:
        """Return what an end before the first frame means.

        `code` is the command's exit code, `errors` the end of what it wrote to stderr.
        """


class LocalConnection:
    """An agent that is a process of this machine: beside a scheduler, or for a second Python."""

    def __init__(
        self, label: str, *, program: str = "", variables: Mapping[str, str] | None = None
    ) -> None:
        """`program`: the Python that runs it, "" for this one."""
        self._label = label
        self._program = program
        self._variables = dict(variables or {})

    @property
    def label(self) -> str:
        return self._label

    @property
    def variables(self) -> Mapping[str, str]:
        return self._variables

    def argv(self, agent: Sequence[str]) -> list[str]:
        if self._program:
            return [self._program, "-P", "-m", AGENT, *agent]
        return python("-m", AGENT, *agent)

    def is_cut(self, code: int) -> bool:
        """Return whether it was ended by a signal, and not by itself."""
        return code < 0

    def problem(self, code: int, errors: str) -> BuildError:
        program = self._program or python()[0]
        last = next((line for line in reversed(errors.splitlines()) if line.strip()), "")
        return StepError(
            f"{self._label}: its agent did not begin (exit code {code})"
            + (f": {last.strip()[:300]}" if last else ""),
            hint=f"does `{program} -m olivebuild --version` work"
            + (f" with {', '.join(self._variables)} set" if self._variables else "")
            + "?",
        )


def environment_of(connection: Connection) -> dict[str, str]:
    """Return the environment of a connection's command."""
    return os.environ | dict(connection.variables)
