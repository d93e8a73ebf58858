"""Temporary replacements of a library's private parts, each checked before any is applied.

What another version of the library does not have is a `BuilderChanged`; so is a failure of its own
code while the replacements are in place. A failure of code of this package is a bug, and stays one.
"""

from __future__ import annotations

import contextlib
import inspect
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import olivebuild
from olivebuild.ml.weights.errors import NotProvenEqual

PACKAGE = Path(olivebuild.__file__).parent
FAILURES = (AttributeError, TypeError, LookupError, AssertionError, RuntimeError, ValueError)
"""Exceptions by which code fails that another library's private part is not written for."""


class BuilderChanged(NotProvenEqual):
    """The model builder, or a library below it, is not the one that this package knows."""


@dataclass(frozen=True, kw_only=True)
class Patch:
    """An attribute `name` of `owner`, and its `replacement`; None only checks that it is there.

    `signature` is the text of the known one, without annotations; empty where any will do.
    `library` is how messages call the owner.
    """

    owner: Any
    name: str
    replacement: Any = None
    signature: str = ""
    library: str = "the model builder"

    def check(self) -> None:
        """Raise BuilderChanged when the attribute is missing or has another signature."""
        attribute = getattr(self.owner, self.name, None)
        if self.signature:
            actual = _signature(attribute) if attribute else "nothing"
            if actual != self.signature:
                raise BuilderChanged(
                    f"{self.library}'s {self.name} is not the one that is known: {actual}"
                )
        elif not hasattr(self.owner, self.name):
            raise BuilderChanged(f"{self.library} has no {self.name}")


def _signature(function: Any) -> str:
    """The text of a function's signature, without annotations."""
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(function).parameters.values()
    ]
    return str(inspect.Signature(bare))


@contextlib.contextmanager
def applied(patches: Sequence[Patch]) -> Iterator[None]:
    """Check all patches, then replace the attributes, and put them back at the end.

    Raises BuilderChanged, also for a failure within that is not of this package's own code.
    """
    for patch in patches:
        patch.check()
    with contextlib.ExitStack() as stack:
        for patch in patches:
            if patch.replacement is not None:
                before = getattr(patch.owner, patch.name)
                stack.callback(setattr, patch.owner, patch.name, before)
                setattr(patch.owner, patch.name, patch.replacement)
        with foreign_code():
            yield


@contextlib.contextmanager
def foreign_code() -> Iterator[None]:
    """Turn failures of other libraries' code into BuilderChanged; those of our own stay."""
    try:
        yield
    except FAILURES as e:
        if _is_ours(e):
            raise
        raise BuilderChanged(
            f"the model builder is not the one that is known: {type(e).__name__}: {str(e)[:200]}"
        ) from e


def _is_ours(error: BaseException) -> bool:
    """Return whether an exception was raised in a file of this package."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and PACKAGE in Path(frames[-1].filename).parents
