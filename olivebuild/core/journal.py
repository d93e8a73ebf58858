"""Names and what is known of them, in a file that grows by what changes.

An edit reads little of it and writes less. Knows no meanings.

A line is a checksum, a name and a JSON value; the last line of a name counts, and `null` says that
nothing is known any more. A line that is torn or damaged is as if it were not there: what is kept
here can be found out again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import xxhash

from olivebuild.core.fs import opening

CHECK = 16
SPARE = 1 << 16
"""Bytes of lines that no longer count which are not worth a new file."""
GONE = b"null"
TAIL = 1 << 16
"""What changed last, and so is asked for most, is in so many bytes at the end."""
FEW = 16
"""So many names are looked for in the file as it is; then its lines are sorted out, which takes as
long as some twenty of them.
"""


class Journal:
    def __init__(self, file: Path) -> None:
        self.file = file
        self._data: bytes | None = None
        self._end: bytes | None = None
        self._asked = 0
        self._found: dict[bytes, bytes] | None = None
        """name -> its line, not looked at yet"""
        self._changed: dict[bytes, bytes] = {}

    def get(self, name: str) -> bytes | None:
        """The JSON value of a name; None if nothing is known of it."""
        key = json.dumps(name).encode()
        value = self._changed.get(key) or _value(self._line_of(key))
        return None if value == GONE else value

    def set(self, name: str, value: bytes) -> None:
        self._changed[json.dumps(name).encode()] = value

    def forget(self, name: str) -> None:
        self.set(name, GONE)

    def __iter__(self) -> Iterator[str]:
        for key in dict.fromkeys((*self._lines(), *self._changed)):
            try:
                name = json.loads(key)
            except (ValueError, RecursionError):
                continue
            if isinstance(name, str) and self.get(name) is not None:
                yield name

    def save(self, *, alone: bool = False) -> None:
        """Keep what has changed.

        `alone`: nobody else writes now, so that the file may be made anew. Raises OSError.
        """
        if not self._changed:
            return
        added = b"".join(_line(key, value) for key, value in self._changed.items())
        self.file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(
            self.file, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666
        )
        with open(handle, "ab+", buffering=0) as f:
            size = f.seek(0, os.SEEK_END)
            if size and (f.seek(size - 1), f.read(1))[1] != b"\n":
                # Somebody was killed in the middle of a line.
                added = b"\n" + added
            f.write(added)
        if self._found is not None:
            self._found.update(
                {key: _line(key, value)[:-1] for key, value in self._changed.items()}
            )
        self._data = self._end = None
        self._changed.clear()
        # Counting what no longer counts takes longer than adding a line.
        if alone and size // SPARE != (size + len(added)) // SPARE:
            self._tidy(size + len(added))

    def _tidy(self, size: int) -> None:
        current = self._lines().values()
        if size - sum(map(len, current)) - len(current) > max(SPARE, size // 2):
            # Another process may have added lines since we read ours.
            self._data = self._end = self._found = None
            lines = [
                line + b"\n" for line in self._lines().values() if _value(line) not in (None, GONE)
            ]
            temporary = self.file.with_name(f".{self.file.name}.{os.getpid()}.tmp")
            temporary.write_bytes(b"".join(lines))
            os.replace(temporary, self.file)
            self._data = self._end = None

    def _line_of(self, key: bytes) -> bytes:
        self._asked += 1
        if self._found is not None or self._asked > FEW:
            return self._lines().get(key, b"")
        return _last_line(self._read_end(), key) or _last_line(self._read(), key)

    def _read_end(self) -> bytes:
        """The last whole lines."""
        if self._end is None:
            try:
                with opening.open_file(self.file) as f:
                    begin = max(0, f.seek(0, os.SEEK_END) - TAIL)
                    f.seek(begin)
                    self._end = f.read().partition(b"\n")[2] if begin else f.read()
            except OSError:
                self._end = b""
        return self._end

    def _read(self) -> bytes:
        if self._data is None:
            try:
                self._data = opening.read(self.file)
            except OSError:
                self._data = b""
        return self._data

    def _lines(self) -> dict[bytes, bytes]:
        if self._found is None:
            self._found = {
                line.partition(b"\t")[0][CHECK + 1 :]: line for line in self._read().split(b"\n")
            }
            self._found.pop(b"", None)
            self._data = None
        return self._found


def _last_line(data: bytes, key: bytes) -> bytes:
    mark = b" " + key + b"\t"
    at = data.rfind(mark)
    while at >= 0 and at != CHECK and data[at - CHECK - 1 : at - CHECK] != b"\n":
        at = data.rfind(mark, 0, at)
    if at < CHECK:
        return b""
    end = data.find(b"\n", at)
    return data[at - CHECK : end if end >= 0 else len(data)]


def _line(key: bytes, value: bytes) -> bytes:
    rest = key + b"\t" + value
    return b"%s %s\n" % (xxhash.xxh3_64_hexdigest(rest).encode(), rest)


def _value(line: bytes) -> bytes | None:
    """None for what is damaged, or no line at all."""
    rest = line[CHECK + 1 :]
    _, tab, value = rest.partition(b"\t")
    return (
        value
        if tab and line[: CHECK + 1] == xxhash.xxh3_64_hexdigest(rest).encode() + b" "
        else None
    )
