"""Process that pushes an export: `python -m olivebuild.exporters.push.push_process`.

Reads a Request and then an Export, each as a line of JSON, and answers each with one (records.py).
Its parent imports neither huggingface_hub nor azure-ai-ml.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Protocol

import msgspec

from olivebuild.core.errors import BuildError
from olivebuild.core.values.typed import decode
from olivebuild.exporters.push.place import HubPlace, Place
from olivebuild.exporters.push.records import Answer, Export, Pushed, Request


class Service(Protocol):
    """A place that is pushed to. Both raise BuildError."""

    def check(self) -> None:
        """Raise for what is known to stand against a push, before anything is exported."""

    def push(self, export: Export) -> Pushed:
        """Push what the folder holds as its manifest says, all of it or nothing."""


def service_of(place: Place) -> Service:
    if isinstance(place, HubPlace):
        from olivebuild.exporters.push.hub import Hub

        return Hub(place)
    from olivebuild.exporters.push.azureml import AzureModels

    return AzureModels(place)


def main() -> int:
    # Libraries print; what is read as answers is not theirs.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    logging.disable(logging.WARNING)

    def say(answer: Answer) -> None:
        answers.write(msgspec.json.encode(answer) + b"\n")
        answers.flush()

    try:
        service = service_of(decode(sys.stdin.buffer.readline(), Request).place)
        service.check()
        say(Answer(ready=True))
        if line := sys.stdin.buffer.readline():
            say(Answer(pushed=service.push(decode(line, Export))))
    except BuildError as e:
        say(Answer(error=e.to_json()))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
