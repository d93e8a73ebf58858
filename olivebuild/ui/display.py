"""Display of a build, made when there is something to show.

Drawing takes long to import, and the first step need not wait for it.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from olivebuild.api.event import Event

if TYPE_CHECKING:
    from olivebuild.ui.plain import Lines


def _lines() -> Lines:
    from olivebuild.ui import plain

    if plain.are_enough():
        return plain.Lines()
    from olivebuild.ui.live import Display

    return Display()


class Showing:
    """Listener of one build.

    Events that show nothing by themselves are kept until one that does.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._display: Lines | None = None
        self._held: list[Event] = []

    def __enter__(self) -> Showing:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, event: Event) -> None:
        if self._display is None:
            self._held.append(event)
            if event.name == "plan":
                return
            self._display = self._stack.enter_context(_lines())
        for waiting in self._held or [event]:
            self._display(waiting)
        self._held.clear()
