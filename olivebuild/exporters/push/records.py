"""What a push is asked and what it answers, between the command and its process."""

from __future__ import annotations

from msgspec import Struct

from olivebuild.exporters.push.place import Place


class Request(Struct, frozen=True, kw_only=True):
    """First what a process is asked: whether it could push there. Runs until its input ends."""

    place: Place


class Export(Struct, frozen=True, kw_only=True):
    """Second: an export's folder to push, and what it is."""

    folder: str
    target: str
    digest: str
    version: str
    """Of olivebuild."""


class Pushed(Struct, frozen=True, kw_only=True):
    """Where it is now, and what is to be said of that."""

    text: str
    """hf:OWNER/NAME@COMMIT, or the azureml: URI with its version."""
    url: str = ""
    new: bool = True
    """It was not there already."""
    notes: tuple[str, ...] = ()


class Answer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the process: ready, or pushed, or an error (core/errors.py)."""

    ready: bool = False
    pushed: Pushed | None = None
    error: dict[str, object] | None = None
