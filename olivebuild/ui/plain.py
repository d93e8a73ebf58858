"""Plain-text build output, for pipes and CI logs.

Imports no drawing library. live.py adds colours and, below the lines, a row for each running step.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

import click
from msgspec import Struct
from msgspec.structs import replace

from olivebuild.api.event import Event
from olivebuild.cache.key import Reason
from olivebuild.core.text import clean, seconds, size
from olivebuild.ui.wording import GATE_COLOURS, decided, describe, listed, so_far

if TYPE_CHECKING:
    from olivebuild.engine.build_report import BuildReport

Clock = Callable[[], float]
ENOUGH_SECONDS = 2.0
"""Least time of a phase before its pace is used for estimates.

It must also be a tenth of what the step is expected to cost: a step may have short phases first.
"""
WORK = ("training", "judging", "measuring")
"""Phases that are most of their step: their pace tells what is left, whatever the last time was."""
SLOWEST = 20.0
"""The most by which this run is taken to be slower or faster than the last one."""
TRANSFERS = {"fetching": "from remote", "uploading": "to remote"}
"""What is on its way -> the name of its row."""
LONG_SECONDS = 10.0
"""The time that a transfer may take without a plain line."""
SILENCE_SECONDS = 60.0
"""Longest time without a line of a running step that reports progress."""


class Row(Struct, frozen=True):
    """A running step, or a long file that is hashed.

    `cost` is the time in seconds that it is expected to take; `first` is `done` when the phase
    began, at `since`.
    """

    started: float
    cost: float | None = None
    what: str = "running"
    done: int = 0
    total: int = 0
    first: int = 0
    since: float = 0.0
    loss: float | None = None
    figures: str = ""
    """What the rows so far say."""
    in_bytes: bool = False

    def progress(self, what: str, done: int, total: int, now: float) -> Row:
        if what != self.what:
            begun = replace(self, what=what, done=done, total=total, first=done, since=now)
            return replace(begun, in_bytes=what == "fetching")
        return replace(self, done=done, total=total)

    def left(self, now: float) -> float | None:
        """Return the seconds left, by the phase's pace, else by the step's expected time.

        None when neither is known.
        """
        spent, counted = now - self.since, self.done - self.first
        least = ENOUGH_SECONDS
        if self.what not in WORK:
            least = max(least, (self.cost or 0) / 10)
        if self.total and counted > 0 and spent >= least:
            return spent / counted * (self.total - self.done)
        rest = (self.cost or 0) - (now - self.started)
        return rest if rest > 0 else None

    def state(self) -> str:
        """Return `training 18/36, loss 0.412`."""
        if self.in_bytes:
            return f"{self.what} {size(self.done)} of {size(self.total)}"
        count = f" {self.done}/{self.total}" if self.total else f" {self.done}" if self.done else ""
        loss = f", loss {self.loss:.3f}" if self.loss is not None else ""
        return f"{self.what}{count}{loss}" + (f", {self.figures}" if self.figures else "")

    def text(self, now: float) -> str:
        """Return `training 18/36, loss 0.412, 2.1 s each, 38 s left`.

        Where the time left is not known, the time passed stands instead.
        """
        spent, counted = now - self.since, self.done - self.first
        pace = ""
        if self.total and counted > 0 and spent >= ENOUGH_SECONDS:
            each = (
                f", {counted / spent:.1f} a second"
                if counted > spent
                else f", {spent / counted:.1f} s each"
            )
            pace = f", {size(counted / spent)} a second" if self.in_bytes else each
        left = self.left(now)
        if self.done == self.total > 0:
            return self.state() + pace
        return (
            self.state()
            + pace
            + (
                f", {whole(left)} left"
                if left is not None
                else f", {whole(now - self.started)} so far"
            )
        )


def sample_text(data: Mapping[str, Any]) -> str:
    """Return a sample of a training: the end of a prompt, and what the model writes at a step."""
    prompt, answer, expected = (
        " ".join(str(data.get(name, "")).split()) for name in ("prompt", "answer", "expected")
    )
    right = "right" if answer == expected else f"expected {expected!r}"
    return f"step {data.get('step')}: ...{prompt[-40:]} -> {answer!r} ({right})"


def whole(value: float) -> str:
    """Return estimated seconds as text without decimals."""
    return f"{round(value)} s" if round(value) < 60 else seconds(round(value))


def echo(text: str, *, err: bool = False) -> None:
    """Print lines, on a terminal no wider than it is."""
    stream = sys.stderr if err else sys.stdout
    if stream.isatty():
        from olivebuild.ui.folding import fold_to_terminal

        text = fold_to_terminal(text)
    click.echo(text, err=err)


def are_enough() -> bool:
    """Return True if standard output takes neither colours nor rows that are drawn over."""
    # By the same rules as rich.
    return not (
        sys.stdout.isatty()
        or os.environ.get("FORCE_COLOR")
        or os.environ.get("TTY_COMPATIBLE") == "1"
    )


def summary(report: BuildReport) -> tuple[str, str]:
    """Return the summary of a successful build in two parts: the main one, and the rest."""
    if not report.ran and not report.restored:
        return (
            "nothing to do",
            f": {clean(listed(report.goals))} {'is' if len(report.goals) == 1 else 'are'} fresh",
        )
    parts = [
        f"{len(names)} {word}"
        for names, word in (
            (report.ran, "built"),
            (report.restored, "restored"),
            (report.fresh, "fresh"),
        )
        if names
    ]
    return ", ".join(parts), f" in {seconds(report.seconds)}"


class Lines:
    """Listener of a build that prints a line for each event."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._rows: dict[str, Row] = {}
        self._costs: dict[str, float | None] = {}
        """Nodes still to run -> seconds that they took last time."""
        self._steps = 0
        self._spent, self._expected = 0.0, 0.0
        """Seconds of the steps that this run has finished, and of the same steps last time."""
        self._open: dict[tuple[str, str], Mapping[str, Any]] = {}
        """(Benchmark, gate) -> what the rows so far say of it, while it is not decided."""
        self._told: dict[str, tuple[str, int, float]] = {}
        """Node -> phase, fifth of the phase, and time of its last plain line."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def __call__(self, event: Event) -> None:
        data: Mapping[str, Any] = event.data
        node = str(data.get("node", ""))
        if event.name == "plan":
            self._costs = dict(data.get("seconds", {}))
            self._steps = len(self._costs)
        elif event.name == "started":
            self._start(node, data)
        elif event.name in ("finished", "restored", "failed", "stopping"):
            self._end(event.name, node, data)
        elif event.name in ("sample", "decided", "note", "waiting", "fetched"):
            self._say(event.name, node, data)
        elif event.name == "hashing":
            self._hashing(str(data["file"]), data["done"], data["total"])
        elif event.name == "transfer":
            self._transfer(str(data["what"]), data["done"], data["total"])
        elif event.name == "working":
            self._work(node, str(data["what"]))
        elif node in self._rows:
            self._go_on(event.name, node, data)

    def _go_on(self, event: str, node: str, data: Mapping[str, Any]) -> None:
        """Change the row of a running step."""
        row = self._rows[node]
        if event == "progress":
            now = self._clock()
            self._rows[node] = row.progress(data["what"], data["done"], data["total"], now)
            if not self.draws:
                self._tell(node)
        elif event == "metric" and "loss" in data:
            self._rows[node] = replace(row, loss=data["loss"])
        elif event == "figures":
            self._rows[node] = replace(row, figures=so_far(data))
            for gate in data["gates"]:
                self._open[str(data["target"]), str(gate["gate"])] = gate

    def _say(self, event: str, node: str, data: Mapping[str, Any]) -> None:
        """Print what a step has to say."""
        if event == "sample":
            self._line("bright_black", "sample", node, sample_text(data))
        elif event == "decided":
            self._open.pop((str(data["target"]), str(data["gate"])), None)
            colour = GATE_COLOURS[data["state"]]
            self._line(colour, "decided", node, f"{data['gate']} is {decided(data)}")
        elif event == "note":
            self._line("bright_black", "note", node, str(data["text"]))
        elif event == "waiting":
            self._line("cyan", "wait", node, "another build makes it")
        elif event == "fetched":
            self._line("cyan", "fetched", node, f"{size(data['bytes'])} from the remote cache")

    @property
    def draws(self) -> bool:
        """Return True if rows show the progress of steps."""
        return False

    def _draw(self) -> None:
        """Begin to draw rows, if this display has any."""

    def _start(self, node: str, data: Mapping[str, Any]) -> None:
        reasons = [Reason(**r) for r in data["reasons"]]
        why = (
            [describe(reasons[0]) + (f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else "")]
            if reasons
            else []
        )
        cost = [f"took {seconds(data['seconds'])} last time"] if data["seconds"] else []
        where = [f"on {data['executor']}"] if data.get("executor") else []
        self._line("yellow", "run", node, ", ".join(where + why + cost))
        now = self._clock()
        if self._costs and node not in self._costs:
            # It was expected to be carried over.
            self._steps += 1
            self._costs[node] = data["seconds"]
        self._rows[node] = Row(now, self._scaled(data["seconds"]), since=now)
        self._told[node] = ("", 0, now)
        self._draw()

    def _scaled(self, cost: float | None) -> float | None:
        """Return what a step is expected to cost in this run, by its last time.

        As much more or less as the steps that this run has finished.
        """
        if cost is None or self._expected < ENOUGH_SECONDS:
            return cost
        pace = self._spent / self._expected
        return cost * min(SLOWEST, max(1 / SLOWEST, pace))

    def _work(self, node: str, what: str) -> None:
        """Begin a row of what is no step and tells no progress."""
        now = self._clock()
        self._rows[node] = Row(now, since=now, what=what)
        self._draw()

    def _hashing(self, file: str, done: int, total: int) -> None:
        now = self._clock()
        row = self._rows.get(file) or Row(now, since=now, what="hashing", in_bytes=True)
        self._rows[file] = row.progress("hashing", done, total, now)
        if done >= total:
            del self._rows[file]
        else:
            self._draw()

    def _transfer(self, what: str, done: int, total: int) -> None:
        """Change the row of what is on its way from, or to, the remote cache."""
        now, name = self._clock(), TRANSFERS[what]
        row = self._rows.get(name) or Row(now, what=what, first=done, since=now, in_bytes=True)
        self._rows[name] = row.progress(what, done, total, now)
        if done >= total:
            del self._rows[name]
        elif self.draws or now - row.since < LONG_SECONDS:
            self._told.setdefault(name, (what, 0, now))
            self._draw()
        else:
            self._tell(name)

    def _end(self, event: str, node: str, data: Mapping[str, Any]) -> None:
        row = self._rows.pop(node, None)
        cost = self._costs.pop(node, None)
        if event == "finished" and cost and data.get("seconds"):
            self._spent += data["seconds"]
            self._expected += cost
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
        """Print a plain line at each fifth of a phase, and after a minute without one."""
        row, now = self._rows[node], self._clock()
        what, fifth, when = self._told[node]
        reached = row.done * 5 // row.total if row.total > 4 else 0
        before = fifth if row.what == what else 0
        if reached > before or now - when >= SILENCE_SECONDS:
            self._told[node] = (row.what, reached, now)
            self._line("bright_black", "", node, row.text(now))

    def _line(self, colour: str, word: str, node: str, text: str) -> None:
        click.echo(f"{word:<9}{node:<22} {clean(text)}".rstrip())
