"""Entries of a conda file: what became of each, and what the new environment keeps of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from packaging.version import Version

from olivebuild.core.fs.small_files import read_bytes
from olivebuild.recipe.importers.requirements import Judged, Outcome

Path_ = tuple[str | int, ...]
MAX_BYTES = 1 << 20
PASSWORD = re.compile(r"(?<=//)[^/\s@]+@")
SELECTOR = re.compile(r"#\s*\[[^\]]+\]\s*$")
OLDEST_PYTHON = Version("3.11")


@dataclass(frozen=True, kw_only=True)
class Line:
    """An entry of the file: where it stands, and what became of it.

    `text` is shown to people, and holds no password. `to` is what stands for the entry.
    """

    file: str
    line: int
    path: Path_
    text: str
    outcome: Outcome
    to: str = ""
    because: str = ""
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An entry as it is read: its value, and the whole line of the file with its comment."""

    file: str
    line: int
    path: Path_
    text: str
    whole: str = ""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A line for the new environment's list of pip, and where it comes from."""

    text: str
    file: str
    line: int


@dataclass(kw_only=True)
class Reading:
    """A conda file as far as it has been read."""

    folder: Path
    trust_index: bool
    python: Version = OLDEST_PYTHON
    python_text: str = f"python={OLDEST_PYTHON}"
    pip_text: str = "pip"
    name: str = ""
    lines: list[Line] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    extras: list[tuple[str, int]] = field(default_factory=list)
    """(extra of olivebuild, the index in `lines` of what asks for it)"""
    channels: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)

    def add(self, entry: Entry, judged: Judged) -> None:
        """Record an entry and what becomes of it."""
        because = judged.because
        if SELECTOR.search(entry.whole) and judged.outcome != "ignored":
            comment = "conda takes its selector for a comment, so that it counts on every system"
            because = f"{because}; {comment}" if because else comment
        self.extras += [(extra, len(self.lines)) for extra in judged.extras]
        self.lines.append(
            Line(
                file=entry.file,
                line=entry.line,
                path=entry.path,
                text=PASSWORD.sub("", entry.text),
                outcome=judged.outcome,
                to=judged.to,
                because=because,
                hint=judged.hint,
            )
        )
        if judged.keep and judged.keep not in [kept.text for kept in self.kept]:
            self.kept.append(Kept(text=judged.keep, file=entry.file, line=entry.line))


def text_of(file: Path) -> str:
    """Return a file's text. Raises OSError, or ValueError for what is no short text in UTF-8."""
    data = read_bytes(file)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has {len(data)} bytes, and {MAX_BYTES} are the most")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
