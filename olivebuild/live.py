"""What people see while a build runs: plain lines, and on a terminal a row for each running step below them. Decides nothing.

Lines that tell what happened are printed once and stay; rows are drawn over and vanish. A row is never wider than the terminal, so that
drawing it again can't reach a line above it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from olivebuild.console import stdout
from olivebuild.digest import StatMemo
from olivebuild.events import Event
from olivebuild.key import Reason
from olivebuild.wording import clean, describe, seconds, size

Clock = Callable[[], float]
FRAMES_PER_SECOND = 5
NAME_WIDTH, BAR_WIDTH = 26, 16
ENOUGH_SECONDS = 2.0
"""A phase's own pace counts once it has taken this long, and a tenth of what the step cost last time: a step may have short phases first."""
SILENCE_SECONDS = 60.0
"""Where there is no terminal, a running step says something at least this often, as far as it has something to say."""


@dataclass(frozen=True)
class Row:
    """A running step, or a long file that is hashed. `cost` is what it took last time; `first` is `done` when the phase began, at `since`."""

    started: float
    cost: float | None = None
    what: str = "running"
    done: int = 0
    total: int = 0
    first: int = 0
    since: float = 0.0
    loss: float | None = None
    in_bytes: bool = False

    def progress(self, what: str, done: int, total: int, now: float) -> Row:
        if what != self.what:
            return replace(self, what=what, done=done, total=total, first=done, since=now)
        return replace(self, done=done, total=total)

    def left(self, now: float) -> float | None:
        """Seconds to go: by the phase's pace, else by what the step took last time; None when neither tells."""
        spent, counted = now - self.since, self.done - self.first
        if self.total and counted > 0 and spent >= max(ENOUGH_SECONDS, (self.cost or 0) / 10):
            return spent / counted * (self.total - self.done)
        rest = (self.cost or 0) - (now - self.started)
        return rest if rest > 0 else None

    def state(self) -> str:
        """`training 18/36, loss 0.412`."""
        if self.in_bytes:
            return f"{self.what} {size(self.done)} of {size(self.total)}"
        count = f" {self.done}/{self.total}" if self.total else f" {self.done}" if self.done else ""
        return f"{self.what}{count}" + (f", loss {self.loss:.3f}" if self.loss is not None else "")

    def text(self, now: float) -> str:
        """`training 18/36, loss 0.412, 2.1 s each, 38 s left`; where nothing tells what is left, what has passed."""
        spent, counted = now - self.since, self.done - self.first
        pace = ""
        if self.total and counted > 0 and spent >= ENOUGH_SECONDS:
            each = f", {counted / spent:.1f} a second" if counted > spent else f", {spent / counted:.1f} s each"
            pace = f", {size(counted / spent)} a second" if self.in_bytes else each
        left = self.left(now)
        if self.done == self.total > 0:
            return self.state() + pace
        return self.state() + pace + (f", {whole(left)} left" if left is not None else f", {whole(now - self.started)} so far")


def whole(value: float) -> str:
    """Seconds that are an estimate: no decimals."""
    return f"{round(value)} s" if round(value) < 60 else seconds(round(value))


class Display:
    """Listens to a build. Prints to `console`, standard output if none is given."""

    def __init__(self, console: Console | None = None, clock: Clock = time.monotonic) -> None:
        self.console = console or stdout()
        self._clock = clock
        self._rows: dict[str, Row] = {}
        self._costs: dict[str, float | None] = {}
        """What the nodes that are still to run took last time."""
        self._steps = 0
        self._told: dict[str, tuple[str, int, float]] = {}
        """Of each running step the phase, the fifth of it and the time when a plain line last told."""
        self._live = Live(
            console=self.console,
            get_renderable=self.draw,
            refresh_per_second=FRAMES_PER_SECOND,
            transient=True,
            # What goes elsewhere than to this terminal keeps going there.
            redirect_stdout=not self.console.stderr,
            redirect_stderr=sys.stderr.isatty(),
        )

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        data: Mapping[str, Any] = event.data
        node = str(data.get("node", ""))
        if event.name == "plan":
            self._costs = dict(data.get("seconds", {}))
            self._steps = len(self._costs)
        elif event.name == "started":
            self._start(node, data)
        elif event.name == "progress" and node in self._rows:
            self._rows[node] = self._rows[node].progress(data["what"], data["done"], data["total"], self._clock())
            if not self._live.is_started:
                self._tell(node)
        elif event.name == "hashing":
            self._hashing(str(data["file"]), data["done"], data["total"])
        elif event.name == "metric" and node in self._rows and "loss" in data:
            self._rows[node] = replace(self._rows[node], loss=data["loss"])
        elif event.name == "note":
            self._line("bright_black", "note", node, str(data["text"]))
        elif event.name == "waiting":
            self._line("cyan", "wait", node, "another build makes it")
        elif event.name in ("finished", "restored", "failed", "stopping"):
            self._end(event.name, node, data)

    def draw(self) -> RenderableType:
        """The rows of all running steps, and what is left of the whole build. Called by a thread that draws."""
        now, rows = self._clock(), dict(self._rows)
        room = self.console.width - 1
        names = min(NAME_WIDTH, max((len(node) for node in rows), default=0))
        with_bars = room > names + BAR_WIDTH + 24
        lines = []
        for node, row in rows.items():
            name = node if len(node) <= names else f"{node[: names - 1]}…"
            lines.append(Text.assemble(f"{name:<{names}}  ", *(self._bar(row) if with_bars else ()), clean(row.text(now))))
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
        """`3 of 8 steps done, about 4 min 10 s left`: those that wait take turns in as many places as are busy now."""
        waiting = [cost for node, cost in self._costs.items() if node not in rows]
        left = [row.left(now) for row in rows.values()]
        known = sum(x or 0 for x in waiting) / max(1, len(rows)) + max((x or 0 for x in left), default=0)
        word = "at least" if None in waiting or None in left else "about"
        done = self._steps - len(self._costs)
        return f"{done} of {self._steps} steps done" + (f", {word} {whole(known)} left" if known else "")

    def _start(self, node: str, data: Mapping[str, Any]) -> None:
        reasons = [Reason(**r) for r in data["reasons"]]
        why = [describe(reasons[0]) + (f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else "")] if reasons else []
        cost = [f"took {seconds(data['seconds'])} last time"] if data["seconds"] else []
        self._line("yellow", "run", node, ", ".join(why + cost))
        now = self._clock()
        self._rows[node] = Row(now, data["seconds"], since=now)
        self._told[node] = ("", 0, now)
        # Only now: a build that has nothing to do sends the terminal no control codes.
        if self.console.is_interactive:
            self._live.start()

    def _hashing(self, file: str, done: int, total: int) -> None:
        now = self._clock()
        row = self._rows.get(file) or Row(now, since=now, what="hashing", in_bytes=True)
        self._rows[file] = row.progress("hashing", done, total, now)
        if done >= total:
            del self._rows[file]
        elif self.console.is_interactive:
            self._live.start()

    def _end(self, event: str, node: str, data: Mapping[str, Any]) -> None:
        row = self._rows.pop(node, None)
        self._costs.pop(node, None)
        word, colour = {
            "finished": ("done", "green"),
            "restored": ("restored", "cyan"),
            "failed": ("failed", "red"),
            "stopping": ("stop", "yellow"),
        }[event]
        text = seconds(data.get("seconds"))
        if event == "finished" and row and row.loss is not None:
            text += f", loss {row.loss:.3f}"
        elif event in ("failed", "stopping") and row:
            text = f"{row.state()}, after {seconds(self._clock() - row.started)}"
            self._steps = self._steps if event == "failed" else 0
        self._line(colour, word, node, text)

    def _tell(self, node: str) -> None:
        """A plain line at each fifth of a phase, and when a minute has passed without one."""
        row, now = self._rows[node], self._clock()
        what, fifth, when = self._told[node]
        reached = row.done * 5 // row.total if row.total > 4 else 0
        before = fifth if row.what == what else 0
        if reached > before or now - when >= SILENCE_SECONDS:
            self._told[node] = (row.what, reached, now)
            self._line("bright_black", "", node, row.text(now))

    def _line(self, colour: str, word: str, node: str, text: str) -> None:
        if self._live.is_started:
            # Printing draws the rows again as they were last seen.
            self._live.refresh()
        self.console.print(f"[{colour}]{word:<9}[/]{escape(node):<22} {escape(clean(text))}".rstrip())


def on_stderr() -> Display:
    """Where stdout is for answers."""
    return Display(Console(stderr=True, highlight=False, soft_wrap=True, width=None if sys.stderr.isatty() else 200))


@contextmanager
def hashing(memo: StatMemo) -> Iterator[None]:
    """While long files are hashed without a build, a terminal shows how far that is; on stderr, since stdout is for the answer."""
    with on_stderr() as display:
        memo.listen = lambda path, done, total: display(Event("hashing", {"file": path.name, "done": done, "total": total}))
        yield


@contextmanager
def reading(what: str) -> Iterator[Callable[[int, int], None]]:
    """Hears how many bytes of how many were read, and shows it on a terminal; on stderr, since stdout is for the answer."""
    with Display(Console(stderr=True, highlight=False)) as display:
        yield lambda done, total: display(Event("hashing", {"file": what, "done": done, "total": total}))
