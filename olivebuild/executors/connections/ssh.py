"""The connection to an agent by ssh: OpenSSH's own client, with the user's configuration and keys.

The command line of the other side goes through the login shell there, whichever that is. So it is
kept to words that sh, bash, zsh, fish and csh read alike.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from olivebuild import __version__
from olivebuild.core.errors import BuildError, InputError
from olivebuild.core.text import clean

AGENT = "olivebuild.executors.site.agent"
"""The module that Python runs on the other side."""
CUT = 255
"""The exit code of ssh itself; any other is the command's over there."""
SECONDS_TO_CONNECT = 20
SECONDS_OF_SILENCE = 15
"""After as long without a word ssh asks whether the other side is still there."""
UNANSWERED = 4
"""So many such questions without an answer end the connection."""
OPTIONS = {
    # Nobody is there to be asked: the terminal belongs to the build's display.
    "BatchMode": "yes",
    "ConnectTimeout": str(SECONDS_TO_CONNECT),
    "ServerAliveInterval": str(SECONDS_OF_SILENCE),
    "ServerAliveCountMax": str(UNANSWERED),
    "LogLevel": "ERROR",
    # What a user's configuration may have for terminals, and frames can't bear.
    "RequestTTY": "no",
    "RemoteCommand": "none",
    "PermitLocalCommand": "no",
    "EscapeChar": "none",
    # A shared connection of the user's is used; none is left behind that holds our pipes.
    "ControlMaster": "no",
    "ControlPersist": "no",
    # The other side gets neither keys nor a way back into this network.
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "ClearAllForwardings": "yes",
}
_SAFE = re.compile(r"[A-Za-z0-9_@%+=:,./~-]+")
_PROBLEMS = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key is not the one that was known",
        "if the machine was set up anew, `ssh-keygen -R {host}`; else someone may be in between",
    ),
    (
        r"Host key verification failed|No \S+ host key is known",
        "its host key is not known here",
        "`ssh {host}` once, and compare the key that it shows",
    ),
    (
        r"Permission denied|Too many authentication failures",
        "it takes none of the keys",
        "`ssh {host}` has to work without a question: `ssh-copy-id {host}`, and ssh-agent where a "
        "key has a passphrase",
    ),
    (
        r"Could not resolve hostname",
        "the name is not known",
        "is it a Host of ~/.ssh/config, or is a network missing?",
    ),
    (
        r"Connection refused|timed out|No route to host|Network is unreachable",
        "it can't be reached",
        "is it on? `ssh {host}` tells more",
    ),
)
"""What ssh says -> the fact, and a hint."""


class SshConnection(NamedTuple):
    """A machine that ssh reaches, and the Python there that has olivebuild."""

    name: str
    """The executor's, for messages."""
    host: str
    port: int = 0
    config: str = ""
    """A file that ssh reads in place of ~/.ssh/config."""
    python: str = "python3"
    there: Mapping[str, str] = {}
    """Variables of the environment of the agent, and so of the steps."""

    @property
    def variables(self) -> Mapping[str, str]:
        """Those of ssh itself."""
        return {}

    @property
    def label(self) -> str:
        return f"{self.name} (ssh {self.host})"

    def argv(self, agent: Sequence[str]) -> list[str]:
        """Return the command whose stdin and stdout reach an agent with these arguments."""
        return self.command([self.python, "-P", "-u", "-m", AGENT, *agent])

    def command(self, words: Sequence[str]) -> list[str]:
        """Return the command that runs words over there.

        Raises InputError where no ssh is installed here.
        """
        if self.there:
            words = ["env", *(f"{k}={v}" for k, v in self.there.items()), *words]
        ssh = shutil.which("ssh")
        if ssh is None:
            raise InputError(f"{self.label}: there is no ssh here", hint="install OpenSSH's client")
        command = [ssh, "-T", *(w for k, v in OPTIONS.items() for w in ("-o", f"{k}={v}"))]
        command += ["-F", self.config] if self.config else []
        command += ["-p", str(self.port)] if self.port else []
        return [*command, "--", self.host, " ".join(map(quoted, words))]

    def is_cut(self, code: int) -> bool:
        """Return whether the connection ended, and not what runs over there."""
        return code == CUT or code < 0

    def problem(self, code: int, errors: str) -> BuildError:
        """Return what it means that the command ended with this code and these last words."""
        last = last_line(errors)
        if code == CUT:
            for pattern, fact, hint in _PROBLEMS:
                if re.search(pattern, errors):
                    return self._error(fact, hint.format(host=self.host))
            return self._error(last or "the connection ended", f"`ssh {self.host}` tells more")
        return self._error(*problem_of_python(self.python, code, errors))

    def _error(self, fact: str, hint: str) -> BuildError:
        return InputError(f"{self.label}: {fact}", hint=hint)


def problem_of_python(python: str, code: int, errors: str) -> tuple[str, str]:
    """Return the fact and the hint of a Python that did not become an agent."""
    last = last_line(errors)
    install = f"pip install olivebuild=={__version__}"
    if re.search(r"No module named '?olivebuild'?", errors):
        return (
            f"{python} has no olivebuild",
            f"`{python} -m {install}` there, or `environment: lock` in the recipe",
        )
    if "No module named" in errors or "ImportError" in errors:
        return (f"{python} can't run olivebuild: {last}", f"`{python} -m {install}` there")
    if code in (126, 127):
        fact = f"there is no {python}" + (f" ({last})" if last else "")
        return fact, "`python:` names the Python there that has olivebuild"
    if re.search(r"unknown option|Unknown option: -P|SyntaxError", errors, re.IGNORECASE):
        return f"{python} is older than 3.11: {last}", "`python:` names another"
    return (
        f"the agent ended with exit code {code}" + (f": {last}" if last else ""),
        f"`{python} -m {AGENT} --help` there has to work",
    )


def last_line(errors: str) -> str:
    """Return the last line of what a machine said; it may say anything."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return clean(lines[-1][:300]) if lines else ""


def quoted(word: str) -> str:
    """Return a word as the shells of other machines read it.

    A leading `~/` stays theirs to expand. csh reads `!` and line ends in quotes, too: no word of
    an agent's has any.
    """
    if word.startswith("~/"):
        return f"~/{quoted(word[2:])}" if len(word) > 2 else "~/"
    if _SAFE.fullmatch(word):
        return word if "~" not in word else f"'{word}'"
    return "'" + word.replace("'", "'\\''") + "'"
