"""Actions, as a planner hands them to an executor, and what comes back.

Knows actions, never targets' meaning.

What a worker imports are named tuples: a dataclass takes as long to make as a small module, and
records would have it import a library first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from olivebuild.api.result import Result
from olivebuild.core.errors import BuildError

if TYPE_CHECKING:
    from olivebuild.api.site import SiteRequirements


class ActionInput(NamedTuple):
    """One input of an action.

    The folder, and the file or folder in it that the edge names; `source` is where a model came
    from.

    `digest` is the content digest of the whole; `manifest` its manifest's blob, and the only way to
    it when `folder` is empty.
    """

    folder: str
    path: str
    kind: str
    target: str
    source: str = ""
    trust_remote_code: bool = False
    digest: str = ""
    manifest: str = ""


class Asked(NamedTuple):
    """Rows that a benchmark will ask of what an action makes.

    The benchmark, the file, and how long its answers may be.
    """

    target: str
    path: str
    new_tokens: int
    whole: bool


class Action(NamedTuple):
    """One step with concrete inputs: all that a worker needs, as JSON."""

    node: str
    target: str
    kind: str
    key: str
    fields: dict[str, object]
    inputs: dict[str, ActionInput]
    files: dict[str, list[str]]
    recipe_folder: str
    out: str
    store: str = ""
    """The cache's folder, for steps that read and write single tensors."""
    pin: str = ""
    sha256: Mapping[str, str] = {}
    """File -> SHA-256 of what olivebuild.lock says that its source had when it was pinned."""
    places: Mapping[str, list[object]] = {}
    """field -> [file, line, column, text], so that a worker's error names the place in the recipe.
    """
    gpus: int = 0
    """How many it takes, where there are so many."""
    exclusive: bool = False
    threads: int = 0
    """How many the ONNX Runtime is to start, where others run beside; 0 for its own number."""
    reuses_worker: bool = False
    """May run in a process that has run another action."""
    runner: str = ""
    """The module that runs it, where the kind's own is not needed."""
    publish: bool = True
    """The result goes into build/; what only other steps read by tensors need not be written out.
    """
    consumers: Sequence[list[object]] = ()
    """[kind, fields] of the steps that will read this one's tensors: work that both need may be
    done at once. Of one that judges or checks a model, those of the others that are to come.
    """
    task: str = "run"
    """"run" makes the artifact; "pin" only finds what the source's name stands for today, "look"
    only fetches the small files of a model.
    """
    asked: Sequence[Asked] = ()
    """What is to become of an adapter is asked these, so that rows which can't be are told before
    it is trained.
    """
    template_date: str = ""
    """What a chat template that reads the clock is told, `2026-11-28`; `freeze 2026-11-28` where
    that is to be fixed in what is published.
    """

    numerics: Mapping[str, str] = {}
    """What of the machine it runs on is part of the result's meaning, as the executor finds it; see
    numerics.py.
    """

    elsewhere: SiteRequirements | None = None
    """What another machine has to have, where it is to run on one."""

    def to_json(self) -> str:
        return json.dumps(
            self._asdict()
            | {
                # The worker has been chosen by then.
                "elsewhere": None,
                "inputs": {
                    role: action_input._asdict() for role, action_input in self.inputs.items()
                },
            }
        )

    @staticmethod
    def from_json(text: str) -> Action:
        data = json.loads(text)
        data["asked"] = [Asked(*x) for x in data["asked"]]
        data["inputs"] = {role: ActionInput(**x) for role, x in data["inputs"].items()}
        return Action(**data)


class Outcome(NamedTuple):
    """End of an action: a result, or the error.

    `seconds` is wall time, `peak_rss` bytes, `numerics` the action's.
    """

    node: str
    seconds: float
    peak_rss: int = 0
    result: Result | None = None
    error: BuildError | None = None
    numerics: Mapping[str, str] = {}


JUDGED = "judged"
"""The event of rows that were judged; the build reads it, and tells what the rows say."""
METRIC = "metric"
"""The event of an optimizer step."""


class Message(NamedTuple):
    """An event that a running action sent."""

    node: str
    event: str
    data: dict[str, object]
