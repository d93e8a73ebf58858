"""The one exception family: where it is wrong, the fact, and a hint.

Raised anywhere, caught once (in cli.py and worker.py).
"""

from __future__ import annotations

import errno
from typing import NamedTuple


class Where(NamedTuple):
    """A place in a file that the user wrote.

    `line` and `column` count from 1; `text` is the offending line.
    """

    file: str
    line: int = 0
    column: int = 0
    text: str = ""

    def __str__(self) -> str:
        parts = [self.file, *(str(n) for n in (self.line, self.column) if n)]
        return ":".join(parts)


class Problem(NamedTuple):
    """A fault in the user's words, and a hint."""

    fact: str
    hint: str = ""

    @staticmethod
    def from_text(text: str) -> Problem:
        """Return "fact; hint" as a record. Kinds that return or raise such text are older."""
        fact, _, hint = text.partition("; ")
        return Problem(fact, hint)


class InvalidValue(ValueError):
    """A value of the recipe or the command line that can't be used.

    Validators of fields raise it, and pydantic hands it on with the place.
    """

    def __init__(self, fact: str, hint: str = "") -> None:
        super().__init__(f"{fact}; {hint}" if hint else fact)
        self.problem = Problem(fact, hint)


class HasCredential(InvalidValue):
    """A value with a credential in it: neither it nor its line may be shown."""


class BuildError(Exception):
    """Something that the user can act on. `exit_code` is what the command ends with."""

    exit_code = 1

    def __init__(
        self, fact: str, *, where: Where | str | None = None, hint: str, target: str = ""
    ) -> None:
        super().__init__(fact)
        self.fact = fact
        self.where = Where(where) if isinstance(where, str) else where
        self.hint = hint
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        """Let it cross processes whole, as pools and schedulers of tasks send it."""
        return _unpickled, (type(self), self.fact, vars(self))

    def to_json(self) -> dict[str, object]:
        """The error as a worker sends it to its parent."""
        where = self.where
        place = [where.file, where.line, where.column, where.text] if where else None
        return {"error": type(self).__name__, "fact": self.fact, "where": place, "hint": self.hint}

    @staticmethod
    def from_json(data: dict[str, object], target: str) -> BuildError:
        place = data.get("where")
        where = Where(*place) if isinstance(place, list) else None
        family = {
            c.__name__: c
            for c in (RecipeError, InputError, StepError, NodeLost, GateError, StoreError)
        }
        kind = family.get(str(data.get("error")), StepError)
        return kind(str(data["fact"]), where=where, hint=str(data.get("hint", "")), target=target)


def _unpickled(kind: type[BuildError], fact: str, state: dict[str, object]) -> BuildError:
    error = kind.__new__(kind, fact)
    vars(error).update(state)
    return error


class Damaged(Exception):
    """A blob of the store is missing or is not what its name says.

    No error yet, since its step can run again.
    """

    def __init__(self, blob: str, why: str) -> None:
        super().__init__(f"blob {blob} {why}")
        self.blob = blob
        self.why = why


class RecipeError(BuildError):
    """The recipe or the command line is wrong."""

    exit_code = 2


class InputError(BuildError):
    """A file or a service that the recipe names can't be used.

    It is missing, malformed or changed while it was read.
    """


class StepError(BuildError):
    """A step ran and failed."""


class NodeLost(StepError):
    """A machine is gone that a step ran on: the step may be started again."""


class GateError(StepError):
    """No artifact meets the conditions that were set."""

    exit_code = 3


class StoreError(BuildError):
    """The cache can't be read or written, or what it holds is damaged."""


def first_line(error: BaseException, most: int = 300) -> str:
    """Return what another library's error says, in one line; its type where it says nothing.

    With a heading that ends in a colon goes what it is of.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[:2] if lines[0].endswith(":") else lines[:1])[:most]


FULL = ("no room is left on the disk", "free some and build again: what was finished is kept")
"""Fact and hint."""


def of_disk(error: OSError, what: str = "") -> StoreError:
    """Return what the operating system refused, as an error of ours.

    `what` names the thing that should have been written.
    """
    where = str(error.filename or "") or None
    text = (error.strerror or str(error)).lower()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        fact, hint = FULL
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        fact, hint = (
            text,
            "may you write there? OLIVEBUILD_CACHE names another folder for the cache",
        )
    elif error.errno == errno.ENOENT:
        fact, hint = text, "was it deleted meanwhile? then build again"
    elif error.errno == errno.EXDEV:
        fact, hint = (
            "build/ and .olivebuild/ lie on different disks",
            "results are moved from one into the other; OLIVEBUILD_BUILD names a folder on "
            "another disk for them",
        )
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        fact, hint = text, "`ulimit -n` says how many may be open; 256 are plenty"
    elif error.errno == errno.EFBIG:
        fact, hint = text, "`ulimit -f` says how large one may be, and so may the file system"
    elif error.errno == errno.ENAMETOOLONG:
        fact, hint = text, "move the folder nearer to the root, or give it a shorter name"
    elif error.errno == errno.ELOOP:
        fact, hint = text, "does a link in this folder lead back to it? leave it out"
    else:
        fact, hint = text, "is the disk in order?"
    return StoreError(f"{what} can't be written: {fact}" if what else fact, where=where, hint=hint)
