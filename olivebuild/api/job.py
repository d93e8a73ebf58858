"""A running step's action, its output folder, and its channel to the parent.

A part of the interface for kinds.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivebuild.api import privacy
from olivebuild.api.action import JUDGED, Action, ActionInput
from olivebuild.api.result import Result
from olivebuild.core.errors import Damaged, Where

if TYPE_CHECKING:
    from olivebuild.api.fields import Fields
    from olivebuild.cache.store import Store


class Job:
    """A step's view of its action: fields, inputs, where to write, and how to speak."""

    def __init__(self, action: Action, stream: Any) -> None:
        self.action = action
        self.out = Path(action.out)
        self.result = Result()
        self.log = ""
        """The file that gets what the step prints; "" where there is none."""
        self.fetched: dict[str, str] = {}
        """File -> SHA-256 of what was fetched, to be kept in olivebuild.lock."""
        self._stream = stream

    def fields(self, model: type[Fields]) -> Any:
        return model.model_validate(self.action.fields)

    def input(self, role: str) -> ActionInput:
        return self.action.inputs[role]

    @cached_property
    def store(self) -> Store:
        from olivebuild.cache.store import Store

        return Store(Path(self.action.store), self.mode)

    @cached_property
    def mode(self) -> int:
        """Return who may read the result: who may read all that it is made of."""
        return privacy.mode_of(self.action)

    def set_merges_aside(self) -> None:
        """Forget how those of the inputs' tensors are computed that are not stored.

        Another processor may get other bits from the same merge.
        """
        for action_input in self.action.inputs.values():
            with contextlib.suppress(Damaged, ValueError):
                if action_input.manifest and self.store.manifest(action_input.manifest).merges:
                    self.store.quarantine(action_input.manifest)

    def roles(self, name: str) -> list[str]:
        """name[0], name[1] ... as far as there are inputs of these roles."""
        return sorted(
            (r for r in self.action.inputs if r.startswith(f"{name}[")),
            key=lambda r: int(r[len(name) + 1 : -1]),
        )

    def files(self, label: str) -> list[Path]:
        return [Path(p) for p in self.action.files.get(label, ())]

    def where(self, *field: str | int) -> Where | None:
        """The place of a field in the recipe."""
        place: Any = self.action.places.get(
            ".".join(str(f) for f in field)
        ) or self.action.places.get("")
        return Where(*place) if place else None

    def say(self, event: str, **data: object) -> None:
        self._stream.write(json.dumps({"event": event, **data}) + "\n")
        self._stream.flush()

    def progress(self, what: str, done: int, total: int) -> None:
        self.say("progress", what=what, done=done, total=total)

    def judged(self, data: int, rows: int, outcomes: Mapping[int, Mapping[str, bool]]) -> None:
        """Tell which answers are right as they are judged, so that gates are decided early.

        `data` numbers the data set among the action's, `rows` counts all of its rows. `outcomes`:
        number of a row in the file -> metric of `metrics.gates.OF_ROWS` -> whether it is right.
        """
        self.say(JUDGED, data=data, rows=rows, outcomes=outcomes)

    def note(self, text: str) -> None:
        self.say("note", text=text)
