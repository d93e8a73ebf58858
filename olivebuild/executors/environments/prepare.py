"""Environments are made where they are missing, over the connection that an agent will use."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from olivebuild.core import hashing
from olivebuild.core.errors import BuildError, InputError
from olivebuild.core.text import aside, clean, seconds
from olivebuild.executors.environments import content

SETUP = Path(__file__).with_name("setup_there.py")
MARK = b"olivebuild-environment "
"""What the answer's line begins with; a login shell may print lines of its own."""
MOST_ANSWER = 1 << 20


class Way(Protocol):
    """A connection by which programs can be started."""

    @property
    def label(self) -> str: ...
    def command(self, words: Sequence[str]) -> list[str]: ...
    def problem(self, code: int, errors: str) -> BuildError: ...


class Environment(NamedTuple):
    """A Python elsewhere, and the folder of the package that it is to import."""

    python: str
    code: str


class Wanted(NamedTuple):
    """What an environment is made of."""

    kind: str
    """"venv"; "above" for one that sees the packages of its Python, too; "conda"."""
    requirements: Sequence[str]
    conda: str = ""
    """The text of the conda file."""

    def digest(self, python: str) -> str:
        return hashing.of_json([self.kind, sorted(self.requirements), self.conda, python])[:16]


def prepare(
    way: Way,
    python: str,
    root: str,
    wanted: Wanted,
    tell: Callable[[str], None] = aside,
    environment: Mapping[str, str] | None = None,
) -> Environment:
    """Return an environment, made where it is not there yet.

    `python` is the one there that makes it; `environment` that of the connection's command here.

    Raises InputError for what the other side lacks, and what the connection says of itself.
    """
    asked: dict[str, object] = {
        "root": root,
        "kind": wanted.kind,
        "requirements": list(wanted.requirements),
        "conda": wanted.conda,
        "digest": wanted.digest(python),
        "code": content.stamp(),
    }
    answer = _ask(way, python, asked, b"", tell, environment)
    if answer.get("needs") == "code":
        answer = _ask(way, python, asked, content.package(), tell, environment)
    try:
        made = Environment(str(answer["python"]), str(answer["code"]))
        took = float(answer["seconds"])
    except (ValueError, KeyError, TypeError):
        raise unreadable(way.label) from None
    if took:
        tell(f"{way.label}: made the environment {clean(made.python)} in {seconds(took)}")
    return made


def unreadable(label: str) -> InputError:
    """Return the error of an answer that is none."""
    return InputError(
        f"{label}: no answer that can be read on its environment",
        hint="does its login shell print more than it should?",
    )


def _ask(
    way: Way,
    python: str,
    asked: Mapping[str, object],
    package: bytes,
    tell: Callable[[str], None],
    environment: Mapping[str, str] | None,
) -> dict[str, Any]:
    """Run the program over there once. Raises InputError."""
    script = SETUP.read_bytes()
    load = f"import sys;exec(compile(sys.stdin.buffer.read({len(script)}),'setup','exec'))"
    line = json.dumps({**asked, "bytes": len(package)}).encode() + b"\n"
    process = subprocess.Popen(
        way.command([python, "-c", load]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    try:
        out, errors = _talk(process, script + line + package, way.label, tell)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    lines = [line for line in out[-MOST_ANSWER:].splitlines() if line.startswith(MARK)]
    if not lines:
        raise way.problem(process.returncode, errors.decode(errors="replace"))
    return _read(lines[-1], way.label)


PATIENCE_SECONDS = 5
"""An environment that is there answers sooner."""


def _talk(
    process: subprocess.Popen[bytes], sent: bytes, label: str, tell: Callable[[str], None]
) -> tuple[bytes, bytes]:
    """Return what a process wrote; what takes longer is announced."""
    try:
        return process.communicate(sent, timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        tell(f"{label}: its environment is being made, which takes minutes the first time")
        return process.communicate()


def _read(line: bytes, label: str) -> dict[str, Any]:
    try:
        answer = json.loads(line[len(MARK) :])
        if not isinstance(answer, dict):
            raise unreadable(label)
        if "fact" in answer:
            fact, hint = str(answer["fact"])[:1000], str(answer["hint"])[:1000]
            raise InputError(f"{label}: {clean(fact)}", hint=clean(hint) or "`python:`, `conda:`")
    except (ValueError, KeyError):
        raise unreadable(label) from None
    return answer
