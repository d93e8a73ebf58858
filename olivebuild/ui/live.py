"""Build output on a terminal: coloured lines, and below them a row for each running step.

Lines of events are printed once and stay; rows are drawn over and vanish. A row is never wider than
the terminal, so that drawing it again can't reach a line above it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from olivebuild.api.event import Event
from olivebuild.core.hashing import StatMemo
from olivebuild.core.text import clean
from olivebuild.ui.console import stdout
from olivebuild.ui.folding import Folding
from olivebuild.ui.plain import Clock, Lines, Row, whole
from olivebuild.ui.wording import standing

FRAMES_PER_SECOND = 5
NAME_WIDTH, BAR_WIDTH = 26, 16


class Display(Lines):
    """Listener of a build that prints to `console`, by default standard output."""

    def __init__(self, console: Console | None = None, clock: Clock = time.monotonic) -> None:
        super().__init__(clock)
        self.console = console or stdout()
        self._live = Live(
            console=self.console,
            get_renderable=self.draw,
            refresh_per_second=FRAMES_PER_SECOND,
            transient=True,
            # What goes elsewhere than to this terminal keeps going there.
            redirect_stdout=not self.console.stderr,
            redirect_stderr=sys.stderr.isatty(),
        )

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def draw(self) -> RenderableType:
        """Return the rows of all running steps, and the time left for the whole build.

        A drawing thread calls it.
        """
        now, rows = self._clock(), dict(self._rows)
        room = self.console.width - 1
        names = min(NAME_WIDTH, max((len(node) for node in rows), default=0))
        with_bars = room > names + BAR_WIDTH + 24
        lines = []
        for node, row in rows.items():
            name = node if len(node) <= names else f"{node[: names - 1]}…"
            lines.append(
                Text.assemble(
                    f"{name:<{names}}  ",
                    *(self._bar(row) if with_bars else ()),
                    clean(row.text(now)),
                )
            )
        for (target, _), gate in dict(self._open).items():
            lines.append(Text(f"gate  {target}: {gate['gate']} is open: {standing(gate)}"))
        if self._steps > 1:
            lines.append(Text(self._rest(now, rows), "bright_black"))
        for line in lines:
            # Without spaces at the end: a window that is made narrower folds no more than it must.
            line.truncate(room, overflow="ellipsis")
        return Group(*lines)

    def _bar(self, row: Row) -> list[tuple[str, str]]:
        if not row.total:
            return [(" " * (BAR_WIDTH + 2), "")]
        full = min(BAR_WIDTH, row.done * BAR_WIDTH // row.total)
        done, rest = ("#", "-") if self.console.options.ascii_only else ("━", "╌")
        return [(done * full, "bar.complete"), (rest * (BAR_WIDTH - full), "bar.back"), ("  ", "")]

    def _rest(self, now: float, rows: Mapping[str, Row]) -> str:
        """Return `3 of 8 steps done, about 4 min 10 s left`.

        Waiting steps are expected to run as many at a time as run now.
        """
        costs = self._costs.items()
        waiting = [self._scaled(cost) for node, cost in costs if node not in rows]
        left = [row.left(now) for row in rows.values()]
        estimate = sum(x or 0 for x in waiting) / max(1, len(rows)) + max(
            (x or 0 for x in left), default=0
        )
        word = "at least" if None in waiting or None in left else "about"
        done = self._steps - len(self._costs)
        return f"{done} of {self._steps} steps done" + (
            f", {word} {whole(estimate)} left" if estimate else ""
        )

    @property
    def draws(self) -> bool:
        return self._live.is_started

    def _draw(self) -> None:
        # Only now: a build that has nothing to do sends the terminal no control codes.
        if self.console.is_interactive:
            self._live.start()

    def _line(self, colour: str, word: str, node: str, text: str) -> None:
        if self._live.is_started:
            # Printing draws the rows again as they were last seen.
            self._live.refresh()
        self.console.print(
            f"[{colour}]{word:<9}[/]{escape(node):<22} {escape(clean(text))}".rstrip()
        )


def on_stderr() -> Display:
    """Return a display on stderr, for verbs whose stdout is for answers."""
    return Display(
        Folding(
            stderr=True, highlight=False, soft_wrap=True, width=None if sys.stderr.isatty() else 200
        )
    )


@contextmanager
def hashing(memo: StatMemo) -> Iterator[None]:
    """Context in which a terminal shows the progress of hashing long files.

    It is on stderr, since stdout is for the answer.
    """
    with on_stderr() as display:
        memo.listen = lambda path, done, total: display(
            Event("hashing", {"file": path.name, "done": done, "total": total})
        )
        yield


@contextmanager
def reading(what: str) -> Iterator[Callable[[int, int], None]]:
    """Context with a listener of (bytes read, bytes in all) that shows them on a terminal.

    It is on stderr, since stdout is for the answer.
    """
    with Display(Folding(stderr=True, highlight=False)) as display:
        yield lambda done, total: display(
            Event("hashing", {"file": what, "done": done, "total": total})
        )
