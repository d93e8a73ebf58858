"""Data files as they are found -> rows with their places.

JSON, CSV and parquet, packed or not, in several encodings.

What is guessed is said. What can't be read is an error with its line.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from olivebuild.core.errors import InputError, Where
from olivebuild.data import parquet
from olivebuild.data.limits import LONGEST_LINE, ROW_BYTES, lines_of, share_of_packed
from olivebuild.data.text_files import PACKINGS, Say, Text, encoding_of

TRIED_ROWS = 20
"""Rows by which a delimiter is found."""
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
DAMAGED = (zlib.error, EOFError, gzip.BadGzipFile)


@dataclass(frozen=True)
class Read:
    """One row of a file: its columns and where it stands."""

    columns: dict[str, Any]
    where: Where


def _silently(_text: str) -> None:
    pass


def read_file(path: Path, shown: str, say: Say = _silently) -> Iterator[Read]:
    """The rows of a file.

    `say` gets what was guessed: an encoding, a delimiter. Raises InputError with file:line.
    """
    if error := unread(path, shown):
        raise error
    kind = kind_of(path)
    if kind == ".parquet":
        yield from _numbered(path, shown, say)
        return
    share = share_of_packed(path, shown) if path.suffix.lower() in PACKINGS else None
    try:
        encoding = encoding_of(path, shown, say)
        for row in READERS[kind](Text(path, shown, encoding), say):
            if share:
                share.take(ROW_BYTES)
            yield row
    except DAMAGED as e:
        raise InputError(
            f"the packed file can't be read: {str(e) or type(e).__name__}",
            where=shown,
            hint="is the download complete?",
        ) from None


def unread(path: Path, shown: str) -> InputError | None:
    """Return the error of a file that is none of rows by its name; None for the others."""
    if kind_of(path):
        return None
    hint = (
        f"known are {', '.join(READERS)}; all but parquet also packed, as {' or '.join(PACKINGS)}"
    )
    return InputError(f"files of type {path.suffix or 'none'} are not read", where=shown, hint=hint)


def _numbered(path: Path, shown: str, say: Say) -> Iterator[Read]:
    for number, columns in enumerate(parquet.rows_of(path, shown, say)):
        yield Read(columns, Where(f"{shown}[{number}]"))


def kind_of(path: Path) -> str:
    """Return the ending that says how a file is read: `.jsonl` for ROWS.JSONL.gz.

    "" where it is none that is read.
    """
    suffixes = [s.lower() for s in path.suffixes]
    packed = len(suffixes) > 1 and suffixes[-1] in PACKINGS
    kind = suffixes[-2 if packed else -1] if suffixes else ""
    return kind if kind in READERS and not (packed and kind == ".parquet") else ""


# -- JSON


def _reject_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


EXACT = 17
"""Characters of a number that a float always keeps."""


class Written(float):
    """A number that a float does not hold to its last digit, with the text that it is."""

    text = ""


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} is too large")
    if len(text) <= EXACT or Decimal(text) == Decimal(repr(number)):
        return number
    exact = Written(number)
    exact.text = text
    return exact


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} is given twice")
    return result


def loads(text: str) -> Any:
    """JSON as the standard has it: no NaN, no number without end, no key twice.

    Raises ValueError and RecursionError.
    """
    return json.loads(
        text, object_pairs_hook=_unique, parse_constant=_reject_constant, parse_float=_finite
    )


def _jsonl(text: Text, _say: Say) -> Iterator[Read]:
    hint = "each line of a .jsonl file is one JSON object"
    with text.open("\n") as f:
        for number, line in enumerate(lines_of(f, text.shown), 1):
            if not line.strip():
                continue
            where = Where(text.shown, number, text=line.rstrip("\r\n")[:200])
            try:
                value = loads(line.rstrip("\r\n"))
            except json.JSONDecodeError as e:
                raise InputError(
                    f"not valid JSON: {e.msg}",
                    where=Where(text.shown, number, e.colno, where.text),
                    hint=hint,
                ) from None
            except (ValueError, RecursionError) as e:
                raise InputError(f"not valid JSON: {e}", where=where, hint=hint) from None
            yield Read(_object(value, where), where)


def _json(text: Text, say: Say) -> Iterator[Read]:
    shown, hint = text.shown, "a .json data file holds a list of objects"
    with text.open(None) as f:
        content = f.read()
    try:
        value = loads(content)
    except json.JSONDecodeError as e:
        if e.msg == "Extra data" and _is_object_alone(content):
            # The `json` loader of `datasets` reads such a file, too.
            say(f"{shown}: one JSON object a line, so it is read as .jsonl")
            yield from _jsonl(text, say)
            return
        raise InputError(
            f"not valid JSON: {e.msg}",
            where=Where(shown, e.lineno, e.colno),
            hint="is the file whole?",
        ) from None
    except (ValueError, RecursionError) as e:
        raise InputError(f"not valid JSON: {e}", where=shown, hint=hint) from None
    if isinstance(value, dict):
        value = _list_in(value, shown, say)
    if not isinstance(value, list):
        raise InputError("not a list of rows", where=shown, hint=hint)
    for i, item in enumerate(value):
        where = Where(f"{shown}[{i}]")
        yield Read(_object(item, where), where)


def _is_object_alone(content: str) -> bool:
    """Return whether the first line with text holds one JSON object."""
    first = next((line for line in content.splitlines() if line.strip()), "")
    try:
        return isinstance(loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _list_in(value: dict[str, Any], shown: str, say: Say) -> object:
    """The list of rows in an object, where there is one alone."""
    lists = {name: v for name, v in value.items() if isinstance(v, list)}
    objects = [name for name, v in lists.items() if v and all(isinstance(item, dict) for item in v)]
    if len(lists) == 1:
        return next(iter(lists.values()))
    if len(objects) == 1:
        say(
            f"{shown}: the rows are those of {objects[0]!r}; "
            f"{', '.join(n for n in lists if n not in objects)} is not read"
        )
        return lists[objects[0]]
    if objects:
        hint = f"make a file of one of {', '.join(objects[:10])}"
        raise InputError(
            f"not a list of rows but {len(objects)}: {', '.join(objects[:10])}",
            where=shown,
            hint=hint,
        )
    if lists:
        hint = "a .json data file holds a list of objects, each a row with its columns"
        raise InputError(
            f"not a list of rows but of columns: {', '.join(list(lists)[:10])}",
            where=shown,
            hint=hint,
        )
    return value


def _object(value: object, where: Where) -> dict[str, Any]:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError(
            "half a surrogate pair is no text",
            where=where,
            hint="was the file cut inside an escape like \\ud83d\\ude00?",
        ) from None
    if not isinstance(value, dict):
        raise InputError(
            "a row must be a JSON object",
            where=where,
            hint='a row names its columns: {"column": "value"}',
        )
    return value


# -- CSV


def _csv(text: Text, say: Say) -> Iterator[Read]:
    csv.field_size_limit(LONGEST_LINE)
    usual = "\t" if ".tsv" in [s.lower() for s in text.path.suffixes[-2:]] else ","
    delimiter, skipped = _delimiter(text, usual)
    if delimiter != usual:
        say(f"{text.shown}: the values are separated by {DELIMITERS[delimiter]}")
    with text.open("") as f:
        if skipped:
            f.readline()
        reader = csv.reader(lines_of(f, text.shown), delimiter=delimiter, strict=True)
        start = 1 + skipped
        header: list[str] | None = None
        try:
            for cells in reader:
                where, start = Where(text.shown, start), reader.line_num + skipped + 1
                if not cells:
                    continue
                if header is None:
                    header = cells
                    if len(set(header)) != len(header):
                        raise InputError(
                            "a column name stands twice in the header",
                            where=where,
                            hint="rename one of them",
                        )
                    continue
                if len(cells) != len(header):
                    what = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}[
                        delimiter
                    ]
                    hint = f"a value that holds {what} needs quotes"
                    raise InputError(
                        f"{len(cells)} values, the header has {len(header)} columns",
                        where=where,
                        hint=hint,
                    )
                yield Read(dict(zip(header, cells, strict=True)), where)
        except csv.Error as e:
            if "field limit" in str(e):
                fact, hint = (
                    f"a value of more than {LONGEST_LINE >> 20} MiB",
                    "is its quote never closed?",
                )
            else:
                fact, hint = f"not valid CSV: {e}", "a quote inside a quoted value is doubled"
            raise InputError(fact, where=Where(text.shown, start), hint=hint) from None


def _delimiter(text: Text, usual: str) -> tuple[str, int]:
    """Return what separates the values, and how many lines before the header say just that.

    A line `sep=;` is for spreadsheets.

    It is the usual one unless that leaves the header whole while another parts the header and the
    first rows alike.
    """
    with text.open("") as f:
        first = f.readline(1 << 16)
    if named := re.fullmatch(r'"?sep=([,;\t|])"?\r?\n?', first):
        return named[1], 1
    widths = {d: _widths(text, d) for d in DELIMITERS}
    usual_widths = widths[usual]
    if usual_widths and (usual_widths[0] > 1 or len(usual_widths) < 2):
        return usual, 0
    fitting = [
        d for d, w in widths.items() if d != usual and len(w) > 1 and w[0] > 1 and len(set(w)) == 1
    ]
    return (fitting[0] if len(fitting) == 1 else usual), 0


def _widths(text: Text, delimiter: str) -> list[int]:
    """Return how many values the first rows have."""
    widths: list[int] = []
    try:
        with text.open("") as f:
            for cells in csv.reader(lines_of(f, text.shown), delimiter=delimiter, strict=True):
                widths += [len(cells)] if cells else []
                if len(widths) == TRIED_ROWS:
                    break
    except csv.Error:
        return []
    return widths


READERS: dict[str, Callable[[Text, Say], Iterator[Read]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": lambda text, say: _numbered(text.path, text.shown, say),
}
