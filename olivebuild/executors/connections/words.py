"""The connection to an agent by any program that starts the words after it: `kubectl exec`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from olivebuild.core.errors import BuildError, InputError
from olivebuild.executors.connections.ssh import AGENT, last_line, problem_of_python


class WordsConnection(NamedTuple):
    """A program, and the Python that it starts."""

    label: str
    words: Sequence[str]
    python: str = "python3"
    there: Mapping[str, str] = {}
    """Variables of the environment of the agent, and so of the steps."""

    @property
    def variables(self) -> Mapping[str, str]:
        """Those of the program itself."""
        return {}

    def argv(self, agent: Sequence[str]) -> list[str]:
        """Raises InputError where the program is not installed here."""
        return self.command([self.python, "-P", "-u", "-m", AGENT, *agent])

    def command(self, words: Sequence[str]) -> list[str]:
        """Return the command that runs words over there.

        Raises InputError where the program is not installed here.
        """
        program = shutil.which(self.words[0])
        if program is None:
            fact = f"{self.label}: there is no {self.words[0]} here"
            raise InputError(fact, hint="`command:` of the executor names a program")
        env = ["env", *(f"{k}={v}" for k, v in self.there.items())] if self.there else []
        return [program, *self.words[1:], *env, *words]

    def is_cut(self, code: int) -> bool:
        """Return whether a signal ended the program here.

        Else nothing tells its own exit codes from those of what it started.
        """
        return code < 0

    def problem(self, code: int, errors: str) -> BuildError:
        if code in (126, 127) or "olivebuild" in errors:
            fact, hint = problem_of_python(self.python, code, errors)
        else:
            fact = f"`{' '.join(self.words)}` ended with exit code {code}: {last_line(errors)}"
            hint = "does it start a program there by hand?"
        return InputError(f"{self.label}: {fact}", hint=hint)
