"""The history of builds: an append-only file of lines, one for each build of a recipe.

All checkouts of a recipe share one, by a name in their lock file. It knows nothing of plans, models
or pages.

A line is the digest of a JSON object, and the object. A writer that is killed leaves a torn line.
Readers skip a line that is not whole, and the next writer begins a new one. Writers take turns
under a lock, so that numbers are unique.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import replace

from olivebuild.cache.key import Reason
from olivebuild.core import hashing
from olivebuild.core.errors import RecipeError
from olivebuild.core.fs import opening
from olivebuild.core.fs.files import sync_file, write_atomically
from olivebuild.core.fs.locks import locked
from olivebuild.core.values.strict_json import decode
from olivebuild.metrics.diagnostics.diagnostic import Diagnostic
from olivebuild.metrics.gates import WORDS, State
from olivebuild.recipe.lockfile import HISTORY

TAIL = 1 << 18
"""The bytes at the end of the file in which the last line is sought before all of it is read."""
MAX_BYTES = 16 << 20
"""The size beyond which the file loses its older half."""


class NodeRun(Struct, frozen=True, kw_only=True):
    """A node that a build ran or restored, its key, the reasons, and the seconds that it took."""

    node: str
    target: str
    kind: str
    key: str
    restored: bool
    seconds: float
    reasons: tuple[Reason, ...] = ()


class TargetMetrics(Struct, frozen=True):
    """A target's metrics at the end of a build, and the key under which they were measured."""

    kind: str
    key: str
    metrics: Mapping[str, Any]


class GateResult(Struct, frozen=True, kw_only=True):
    """A gate's outcome.

    The history has a record of its own for it, since old lines must stay readable.
    """

    target: str
    gate: str
    value: float | None
    passed: bool
    state: str = ""
    """Empty in lines from before there was one."""
    interval: tuple[float, float] | None = None
    rows_needed: int | None = None
    why: str = ""
    strict: bool = False

    @property
    def fails(self) -> bool:
        """Tell whether it ended its build with exit code 3."""
        return self.outcome == "missed" or (self.strict and self.outcome == "undecided")

    @property
    def outcome(self) -> State:
        for state in WORDS:
            if state == self.state:
                return state
        return "met" if self.passed else "missed"


class Entry(Struct, frozen=True, kw_only=True):
    """A build, as a line of the history has it."""

    goals: tuple[str, ...]
    time: str
    """The end of the build in UTC, such as 2026-11-20T10:00:00Z."""
    seconds: float
    """Wall time."""
    seconds_saved: float = field(name="saved")
    """The seconds that once went into the results that the build did not make again."""
    fresh: int
    number: Annotated[int, Meta(ge=0)] = 0
    made: tuple[NodeRun, ...] = ()
    failed: tuple[str, ...] = ()
    faults: Mapping[str, str] = {}
    """target -> the place and fact with which it failed: `olivebuild.yaml:7:3: the fact`."""
    measured: Mapping[str, TargetMetrics] = {}
    gates: tuple[GateResult, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()
    machine: Mapping[str, str] = {}
    """The machine to which latencies belong."""
    version: str = ""
    folder: str = ""
    """The recipe's folder. Empty in lines from before checkouts shared a history."""
    host: str = ""
    """The machine that it came from, through a remote cache; empty for this one."""

    @property
    def name(self) -> str:
        return f"build {self.number}"

    @property
    def causes(self) -> list[Reason]:
        """Return the changes from outside that made work, without those that followed from them."""
        reasons: dict[Reason, None] = {}
        for run in self.made:
            for reason in run.reasons:
                if reason.cause not in ("input", "output", "new"):
                    reasons[reason] = None
        return list(reasons)


def last_failures(entries: Sequence[Entry]) -> dict[str, str]:
    """Return when, and with which fault, each target failed whose last run was a failure."""
    failures: dict[str, str] = {}
    for entry in entries:
        for run in entry.made:
            failures.pop(run.target, None)
        when = f"{entry.time.replace('T', ' ').rstrip('Z')} UTC"
        for name in entry.failed:
            fault = entry.faults.get(name) or "its log says why"
            failures[name] = f"it failed in {entry.name} ({when}): {fault}"
    return failures


class History:
    """The file of the builds of one recipe.

    It lies in the cache, so that neither `clean` nor a deleted .olivebuild/ loses it. `name` is
    what the lock file calls it; without one it is the history of the recipe's folder. The cache
    keeps the name, too: a lock file may be deleted to pin everything anew.
    """

    def __init__(self, cache: Path, recipe: Path, name: str = "") -> None:
        self._all, self._recipe = cache / "history", recipe
        path = hashing.of_bytes(str(recipe.resolve()))
        self._of_folder, self._name_file = self._all / f"{path}.jsonl", self._all / f"{path}.name"
        self.name = name or self._last_name()
        self.joined = 0
        """Builds of this folder that `append` has put among those of other checkouts."""
        self.file = self._shared(self.name) if self.name else self._of_folder

    def _shared(self, name: str) -> Path:
        # Recipes of one folder have one lock file.
        return self._all / f"{hashing.of_bytes(f'{name}/{self._recipe.name}')}.jsonl"

    @property
    def folder(self) -> str:
        return str(self._recipe.resolve().parent)

    def _last_name(self) -> str:
        """Return the name under which a build of this folder last wrote; "" without one."""
        try:
            name = opening.read(self._name_file).decode("ascii", "replace")
        except OSError:
            return ""
        return name if HISTORY.fullmatch(name) else ""

    def read(self) -> list[Entry]:
        """Return the builds that can be read, oldest first.

        The content of the file raises nothing.
        """
        entries = _read(self.file)
        return entries if self.file == self._of_folder else self._with_folder(entries)

    def _with_folder(self, entries: list[Entry]) -> list[Entry]:
        """Return a shared history with the builds from before this folder shared it.

        Numbered anew by their times, where both have some.
        """
        earlier = [replace(e, folder=e.folder or self.folder) for e in _read(self._of_folder)]
        if not (earlier and entries):
            return earlier or entries
        ordered = sorted([*earlier, *entries], key=lambda entry: entry.time)
        return [replace(entry, number=i) for i, entry in enumerate(ordered, 1)]

    def _adopt(self) -> None:
        """Move the builds of this folder into the history that it shares now. Raises OSError."""
        if self.file == self._of_folder:
            return
        if self._last_name() != self.name:
            write_atomically(self._name_file, self.name.encode())
        if self._of_folder.exists():
            entries = self.read()
            self.joined = len(_read(self._of_folder)) if _read(self.file) else 0
            write_atomically(self.file, b"".join(map(_line, entries)))
            self._of_folder.unlink(missing_ok=True)

    def fork(self, name: str) -> History:
        """Return a history of another name that begins with the builds of this one.

        Raises OSError.
        """
        self._all.mkdir(parents=True, exist_ok=True)
        write_atomically(self._shared(name), b"".join(map(_line, self.read())))
        write_atomically(self._name_file, name.encode())
        self._of_folder.unlink(missing_ok=True)
        return History(self._all.parent, self._recipe, name)

    def _last(self) -> Entry | None:
        """Return the entry of the greatest number.

        Numbers grow, so it is that of the last whole line.
        """
        try:
            with opening.open_file(self.file) as f:
                size = f.seek(0, 2)
                for length in (min(size, TAIL), size):
                    f.seek(size - length)
                    for line in reversed(f.read().split(b"\n")):
                        if entry := _parse(line):
                            return entry
        except OSError:
            pass
        return None

    def append(self, entry: Entry) -> Entry:
        """Write an entry, and return it with its number once it is on the disk. Raises OSError."""
        return self.append_all([entry])[0]

    def append_all(self, entries: Sequence[Entry]) -> list[Entry]:
        """Write entries, and return them with their numbers. Raises OSError."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.file.with_suffix(".lock")):
            self._adopt()
            last = self._last()
            first = last.number + 1 if last else 1
            numbered = [replace(entry, number=i) for i, entry in enumerate(entries, first)]
            lines = b"".join(map(_line, numbered))
            if self.file.exists() and self.file.stat().st_size + len(lines) > MAX_BYTES:
                before = self.read()
                newer_half = before[len(before) // 2 :]
                write_atomically(self.file, b"".join(map(_line, newer_half)))
            with open(self.file, "ab+", buffering=0) as f:
                if f.tell() and (f.seek(-1, 2), f.read(1))[1] != b"\n":
                    lines = b"\n" + lines
                f.write(lines)
            sync_file(self.file)
        return numbered


def _read(file: Path) -> list[Entry]:
    try:
        lines = opening.read(file).split(b"\n")
    except OSError:
        return []
    entries = {entry.number: entry for line in lines if (entry := _parse(line))}
    return [entries[number] for number in sorted(entries)]


def _as_text(value: object) -> object:
    """Return a JSON value in which each byte of a name that is no text is an escape."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_as_text(name): _as_text(item) for name, item in value.items()}
    return [_as_text(item) for item in value] if isinstance(value, list | tuple) else value


def _line(entry: Entry) -> bytes:
    # Not sorted, since the order of models means something.
    try:
        text = msgspec.json.encode(entry)
    except UnicodeEncodeError:
        # A name that an error tells of need not be text.
        text = msgspec.json.encode(_as_text(msgspec.to_builtins(entry)))
    return b"%s %s\n" % (hashing.of_bytes(text).encode(), text)


def _parse(line: bytes) -> Entry | None:
    check, _, text = line.partition(b" ")
    if not text or hashing.of_bytes(text).encode() != check:
        return None
    try:
        # A later version may say more.
        return decode(text, Entry, strict=False)
    except ValueError:
        return None


BACK = re.compile(r"last(?:~(\d{1,9}))?")
NUMBER = re.compile(r"#?(\d{1,9})")
DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?)?")
LIST_HINT = "`olivebuild history` lists them"


def names_build(text: str) -> bool:
    return any(form.fullmatch(text) for form in (BACK, NUMBER, DATE))


def _is_date(text: str) -> bool:
    try:
        return bool(DATE.fullmatch(text) and datetime.fromisoformat(text))
    except ValueError:
        return False


def find(entries: Sequence[Entry], name: str) -> Entry:
    """Return the build that a name stands for. Raises RecipeError.

    A name is `last`, `last~2`, a number, or a date or time of the UTC day. The last two stand for
    the last build up to the end of that day, minute or second.
    """
    if not entries:
        raise RecipeError(
            "no build has been recorded yet",
            where="command line",
            hint="`olivebuild` builds, and records what it did",
        )
    matches = _matches(entries, name)
    if not matches:
        raise RecipeError(
            f"there is no {name} among the {len(entries)} builds recorded",
            where="command line",
            hint=LIST_HINT,
        )
    return matches[-1]


def _matches(entries: Sequence[Entry], name: str) -> Sequence[Entry]:
    """Return the builds up to the one that a name stands for, or it alone. Raises RecipeError."""
    if m := BACK.fullmatch(name):
        return entries[: len(entries) - int(m[1] or 0)]
    if m := NUMBER.fullmatch(name):
        return [e for e in entries if e.number == int(m[1])]
    if _is_date(name):
        # Times are text of one form, so their beginnings compare like dates.
        moment = name.replace(" ", "T")
        # Those of other machines come later than they were made.
        return sorted((e for e in entries if e.time[: len(moment)] <= moment), key=lambda e: e.time)
    raise RecipeError(
        f"{name!r} names no build",
        where="command line",
        hint=f"write last, last~1, a number or a date; {LIST_HINT}",
    )


def targets_made(store: Path, recipe: Path) -> Iterator[tuple[str, str]]:
    """Yield the (key, target) of all that the builds of a recipe ran or restored.

    By the name of the history that the last build there left in the cache.
    """
    for entry in History(store, recipe).read():
        for run in entry.made:
            yield run.key, run.target
