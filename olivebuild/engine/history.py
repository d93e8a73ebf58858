"""What each build of a workspace made and measured: a file of lines that only grows.

Knows nothing of plans, models or pages.

A line is the digest of a JSON object and the object. A writer that is killed leaves a torn line;
whoever reads passes over what is
not whole, and whoever writes next begins a new line. Writers take turns under a lock, so that
numbers are unique.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from olivebuild.cache.key import Reason
from olivebuild.core import hashing
from olivebuild.core.errors import RecipeError
from olivebuild.core.fs import opening
from olivebuild.core.fs.locks import locked
from olivebuild.core.strict_json import decode

TAIL = 1 << 18
"""The last lines of many targets are in so much of the file; if none is, all of it is read."""
MAX_BYTES = 16 << 20
"""A longer file loses its older half."""


class Made(Struct, frozen=True):
    """A node that a build ran (or restored), its key, and why.

    `seconds` is what it took in this build.
    """

    node: str
    target: str
    kind: str
    key: str
    restored: bool
    seconds: float
    reasons: tuple[Reason, ...] = ()


class Measured(Struct, frozen=True):
    """A target's figures as they stood when the build ended, and the key that made them."""

    kind: str
    key: str
    metrics: Mapping[str, Any]


class Judged(Struct, frozen=True):
    """A gate's outcome. It has a record of its own here, since old lines must stay readable."""

    target: str
    gate: str
    value: float | None
    passed: bool


class Entry(Struct, frozen=True):
    """One build.

    `saved` is what the results that it did not make again once took, in seconds; `machine` is what
    latencies belong to.
    """

    goals: tuple[str, ...]
    time: str
    seconds: float
    saved: float
    fresh: int
    number: Annotated[int, Meta(ge=0)] = 0
    made: tuple[Made, ...] = ()
    failed: tuple[str, ...] = ()
    faults: Mapping[str, str] = {}
    """With what each of these failed: `olivebuild.yaml:7:3: the fact`."""
    measured: Mapping[str, Measured] = {}
    gates: tuple[Judged, ...] = ()
    machine: Mapping[str, str] = {}
    version: str = ""

    @property
    def name(self) -> str:
        return f"build {self.number}"

    @property
    def causes(self) -> list[Reason]:
        """Why this build had something to do: what changed outside, not what followed from it."""
        reasons = [
            r
            for made in self.made
            for r in made.reasons
            if r.cause not in ("input", "output", "new")
        ]
        return list(dict.fromkeys(reasons))


def last_failures(entries: Sequence[Entry]) -> dict[str, str]:
    """Of targets that failed when they were last made: when, and with what."""
    found: dict[str, str] = {}
    for entry in entries:
        for made in entry.made:
            found.pop(made.target, None)
        when = f"{entry.time.replace('T', ' ').rstrip('Z')} UTC"
        found |= {
            name: f"it failed in {entry.name} ({when}): "
            f"{entry.faults.get(name) or 'its log says why'}"
            for name in entry.failed
        }
    return found


class History:
    """The builds of one recipe in one folder.

    It lies in the cache, so that neither `clean` nor a deleted .olivebuild/ loses it.
    """

    def __init__(self, cache: Path, recipe: Path) -> None:
        self.file = cache / "history" / f"{hashing.of_bytes(str(recipe.resolve()))}.jsonl"

    def read(self) -> list[Entry]:
        """The builds that can be read, oldest first. Never raises for what the file holds."""
        try:
            lines = opening.read(self.file).split(b"\n")
        except OSError:
            return []
        found = {entry.number: entry for line in lines if (entry := _parse(line))}
        return [found[number] for number in sorted(found)]

    def _last(self) -> Entry | None:
        """The entry of the greatest number. Numbers grow, so it is the last line that is whole."""
        try:
            with opening.open_file(self.file) as f:
                size = f.seek(0, 2)
                for length in (min(size, TAIL), size):
                    f.seek(size - length)
                    if found := next(
                        (e for line in reversed(f.read().split(b"\n")) if (e := _parse(line))), None
                    ):
                        return found
        except OSError:
            pass
        return None

    def append(self, entry: Entry) -> Entry:
        """The entry with its number, once it is on the disk. Raises OSError."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.file.with_suffix(".lock")):
            last = self._last()
            entry = replace(entry, number=last.number + 1 if last else 1)
            line = _line(entry)
            if self.file.exists() and self.file.stat().st_size + len(line) > MAX_BYTES:
                known = self.read()
                hashing.write_atomically(
                    self.file, b"".join(_line(e) for e in known[len(known) // 2 :])
                )
            with open(self.file, "ab+", buffering=0) as f:
                if f.tell() and (f.seek(-1, 2), f.read(1))[1] != b"\n":
                    line = b"\n" + line
                f.write(line)
            hashing.sync(self.file)
        return entry


def _as_text(value: object) -> object:
    """With an escape for each byte of a name that is no text."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_as_text(name): _as_text(one) for name, one in value.items()}
    return [_as_text(one) for one in value] if isinstance(value, list | tuple) else value


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


BACK, NUMBER, DATE = (
    re.compile(p)
    for p in (
        r"last(?:~(\d{1,9}))?",
        r"#?(\d{1,9})",
        r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?)?",
    )
)


def names_build(text: str) -> bool:
    return any(form.fullmatch(text) for form in (BACK, NUMBER, DATE))


def _is_date(text: str) -> bool:
    try:
        return bool(DATE.fullmatch(text) and datetime.fromisoformat(text))
    except ValueError:
        return False


def find(entries: Sequence[Entry], name: str) -> Entry:
    """`last`, `last~2`, a number, or a date or time of the UTC day (the last build up to its end).

    Raises RecipeError.
    """
    hint = "`olivebuild history` lists them"
    if not entries:
        raise RecipeError(
            "no build has been recorded yet",
            where="command line",
            hint="`olivebuild` builds, and records what it did",
        )
    if m := BACK.fullmatch(name):
        chosen = entries[: len(entries) - int(m[1] or 0)]
    elif m := NUMBER.fullmatch(name):
        chosen = [e for e in entries if e.number == int(m[1])]
    elif _is_date(name):
        wanted = name.replace(" ", "T")
        chosen = [e for e in entries if e.time[: len(wanted)] <= wanted]
    else:
        raise RecipeError(
            f"{name!r} names no build",
            where="command line",
            hint=f"write last, last~1, a number or a date; {hint}",
        )
    if not chosen:
        raise RecipeError(
            f"there is no {name} among the {len(entries)} builds recorded",
            where="command line",
            hint=hint,
        )
    return chosen[-1]


def targets_made(store: Path, recipe: Path) -> Iterator[tuple[str, str]]:
    """Yield (key, target) of what the builds of a recipe made."""
    for entry in History(store, recipe).read():
        for made in entry.made:
            yield made.key, made.target
