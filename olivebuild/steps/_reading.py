"""Data files as they are found -> rows with their places: JSON, CSV and parquet, packed or not, in several encodings.

What is guessed is said. What can't be read is an error with its line.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from olivebuild.errors import InputError, Where, first_line

Say = Callable[[str], None]
LONGEST_VALUE = 1 << 26
"""Characters of a CSV value: a quote that is never closed must not take all memory."""
LARGEST_RATIO, FREE_BYTES = 200, 1 << 26
"""A packed file that unpacks to more than this many times its size, beyond the first bytes, is taken for one made to fill the memory."""
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
    """The rows of a file. `say` gets what was guessed: an encoding, a delimiter. Raises InputError with file:line."""
    kind = kind_of(path)
    if kind not in READERS:
        known = f"known are {', '.join(READERS)}; all but parquet also packed, as {' or '.join(PACKINGS)}"
        raise InputError(f"files of type {path.suffix or 'none'} are not read", where=shown, hint=known)
    if kind == ".parquet":
        yield from _parquet(path, shown)
        return
    try:
        encoding = _encoding(path, shown, say)
        yield from READERS[kind](Text(path, shown, encoding), say)
    except DAMAGED as e:
        raise InputError(f"the packed file can't be read: {str(e) or type(e).__name__}", where=shown, hint="is the download complete?") from None


def kind_of(path: Path) -> str:
    """The ending that says how a file is read, in small letters: `.jsonl` for ROWS.JSONL.gz; "" where it is none that is read."""
    suffixes = [s.lower() for s in path.suffixes]
    packed = len(suffixes) > 1 and suffixes[-1] in PACKINGS
    kind = suffixes[-2 if packed else -1] if suffixes else ""
    return kind if kind in READERS and not (packed and kind == ".parquet") else ""


# -- bytes and text


class _Unpacked(io.RawIOBase):
    """What a packed file holds, as long as it keeps to a size that a text can have."""

    def __init__(self, path: Path, shown: str) -> None:
        self._shown, self._seen, self._most = shown, 0, FREE_BYTES + LARGEST_RATIO * path.stat().st_size
        self._source: Any = gzip.GzipFile(path) if path.suffix.lower() == ".gz" else _zstd(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._source.read(min(len(buffer), 1 << 16))
        except OSError as e:
            # pyarrow's errors are of this kind, too.
            raise EOFError(first_line(e)) from None
        self._seen += len(data)
        if self._seen > self._most:
            hint = "unpack it yourself if it is what it should be"
            raise InputError(f"the file unpacks to more than {LARGEST_RATIO} times its size", where=self._shown, hint=hint)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()


def _zstd(path: Path) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")


PACKINGS = (".gz", ".zst")


@dataclass(frozen=True)
class Text:
    """A file of text: where it lies, how it is shown, and its encoding."""

    path: Path
    shown: str
    encoding: str

    def open(self, newline: str | None = "") -> IO[str]:
        return io.TextIOWrapper(_bytes(self.path, self.shown), encoding=self.encoding, newline=newline)


def _bytes(path: Path, shown: str) -> Any:
    return io.BufferedReader(_Unpacked(path, shown), 1 << 16) if path.suffix.lower() in PACKINGS else open(path, "rb")


def _encoding(path: Path, shown: str, say: Say) -> str:
    """UTF-8; what a byte order mark says; or Windows' Western encoding where all of the file looks like it, which is said."""
    with _bytes(path, shown) as f:
        start = f.read(4)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            encoding = "utf-32" if start.startswith(codecs.BOM_UTF32_LE) else "utf-16"
            say(f"{shown} is read as {encoding.upper()}, as its byte order mark says")
            _check_decodes(path, shown, encoding)
            return encoding
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        data, odd = start, False
        while data and not odd:
            try:
                decoder.decode(data)
            except UnicodeDecodeError:
                odd = True
            data = f.read(1 << 20)
        if not odd:
            try:
                decoder.decode(b"", final=True)
                return "utf-8-sig"
            except UnicodeDecodeError:
                pass
    if not _is_western(path, shown):
        raise _not_utf8(path, shown)
    say(f"{shown} is no UTF-8: it is read as Windows-1252 (Western Europe); save it as UTF-8 if that is not what it is")
    return "cp1252"


def _check_decodes(path: Path, shown: str, encoding: str) -> None:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with _bytes(path, shown) as f:
            while data := f.read(1 << 20):
                decoder.decode(data)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        hint = "is the file whole? save it as UTF-8"
        raise InputError(f"not {encoding.upper()} text, which its byte order mark says it is", where=shown, hint=hint) from None


# Two or more bytes that are one character in UTF-8.
_UTF8 = re.compile(rb"[\xc3-\xf4][\x80-\xbf]+")
# Letters of Western languages, and the signs that word processors write; no y with dots, which is what 0xFF bytes look like.
_SIGNS = rb"\x80\x82-\x85\x8a-\x8c\x8e\x91-\x97\x99-\x9c\x9e-\xa3\xa7-\xab\xae\xb0-\xb7\xba-\xbf"
_FOREIGN = re.compile(rb"[^\x00-\x7f" + _SIGNS + rb"\xc0-\xd6\xd8-\xf6\xf8-\xfe]")


def _is_western(path: Path, shown: str) -> bool:
    """Whether the bytes beyond ASCII look like Western letters and signs: defined, seldom three in a row, and no UTF-8 among them."""
    high = rows = 0
    with _bytes(path, shown) as f:
        for line in f:
            try:
                text = line.decode("cp1252")
            except UnicodeDecodeError:
                return False
            if b"\0" in line:
                return False
            found = [c for c in text if c > "\x7f"]
            if not found:
                continue
            try:
                line.decode()
            except UnicodeDecodeError:
                pass
            else:
                return False
            if _UTF8.search(line) or _FOREIGN.search(line):
                return False
            high, rows = high + len(found), rows + len(re.findall(r"[À-ÿŠŒŽšœž]{3,}", text))
    return high > 0 and rows * 10 <= high


def _not_utf8(path: Path, shown: str) -> InputError:
    """The place of the first byte that is no text: the decoder's own position counts from wherever it began to read."""
    with _bytes(path, shown) as f:
        for number, line in enumerate(f, 1):
            try:
                line.decode()
            except UnicodeDecodeError as e:
                return InputError(f"not UTF-8 text: byte {e.start + 1} of the line", where=Where(shown, number), hint="save the file as UTF-8")
    return InputError("not UTF-8 text", where=shown, hint="save the file as UTF-8")


# -- JSON


def _reject_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} is given twice")
    return result


def loads(text: str) -> Any:
    """JSON as the standard has it: no NaN, no number without end, no key twice. Raises ValueError and RecursionError."""
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_reject_constant, parse_float=_finite)


def _jsonl(text: Text, _say: Say) -> Iterator[Read]:
    hint = "each line of a .jsonl file is one JSON object"
    with text.open("\n") as f:
        for number, line in enumerate(f, 1):
            if not line.strip():
                continue
            where = Where(text.shown, number, text=line.rstrip("\r\n")[:200])
            try:
                value = loads(line.rstrip("\r\n"))
            except json.JSONDecodeError as e:
                raise InputError(f"not valid JSON: {e.msg}", where=Where(text.shown, number, e.colno, where.text), hint=hint) from None
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
        told = "one JSON object a line needs the ending .jsonl" if e.msg == "Extra data" else "is the file whole?"
        raise InputError(f"not valid JSON: {e.msg}", where=Where(shown, e.lineno, e.colno), hint=told) from None
    except (ValueError, RecursionError) as e:
        raise InputError(f"not valid JSON: {e}", where=shown, hint=hint) from None
    if isinstance(value, dict):
        value = _list_in(value, shown, say)
    if not isinstance(value, list):
        raise InputError("not a list of rows", where=shown, hint=hint)
    for i, item in enumerate(value):
        where = Where(f"{shown}[{i}]")
        yield Read(_object(item, where), where)


def _list_in(value: dict[str, Any], shown: str, say: Say) -> object:
    """The list of rows in an object, where there is one alone."""
    lists = {name: v for name, v in value.items() if isinstance(v, list)}
    objects = [name for name, v in lists.items() if v and all(isinstance(item, dict) for item in v)]
    if len(lists) == 1:
        return next(iter(lists.values()))
    if len(objects) == 1:
        say(f"{shown}: the rows are those of {objects[0]!r}; {', '.join(n for n in lists if n not in objects)} is not read")
        return lists[objects[0]]
    if objects:
        hint = f"make a file of one of {', '.join(objects[:10])}"
        raise InputError(f"not a list of rows but {len(objects)}: {', '.join(objects[:10])}", where=shown, hint=hint)
    if lists:
        hint = "a .json data file holds a list of objects, each a row with its columns"
        raise InputError(f"not a list of rows but of columns: {', '.join(list(lists)[:10])}", where=shown, hint=hint)
    return value


def _object(value: object, where: Where) -> dict[str, Any]:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError("half a surrogate pair is no text", where=where, hint="was the file cut inside an escape like \\ud83d\\ude00?") from None
    if not isinstance(value, dict):
        raise InputError("a row must be a JSON object", where=where, hint='a row names its columns: {"column": "value"}')
    return value


# -- CSV


def _csv(text: Text, say: Say) -> Iterator[Read]:
    csv.field_size_limit(LONGEST_VALUE)
    usual = "\t" if ".tsv" in [s.lower() for s in text.path.suffixes[-2:]] else ","
    delimiter, skipped = _delimiter(text, usual)
    if delimiter != usual:
        say(f"{text.shown}: the values are separated by {DELIMITERS[delimiter]}")
    with text.open("") as f:
        if skipped:
            f.readline()
        reader = csv.reader(f, delimiter=delimiter, strict=True)
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
                        raise InputError("a column name stands twice in the header", where=where, hint="rename one of them")
                    continue
                if len(cells) != len(header):
                    what = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}[delimiter]
                    hint = f"a value that holds {what} needs quotes"
                    raise InputError(f"{len(cells)} values, the header has {len(header)} columns", where=where, hint=hint)
                yield Read(dict(zip(header, cells, strict=True)), where)
        except csv.Error as e:
            raise InputError(f"not valid CSV: {e}", where=Where(text.shown, start), hint="a quote inside a quoted value is doubled") from None


def _delimiter(text: Text, usual: str) -> tuple[str, int]:
    """What separates the values, and how many lines before the header say just that (`sep=;`, for spreadsheets).

    It is the usual one unless that leaves the header whole while another parts the header and the first rows alike.
    """
    with text.open("") as f:
        first = f.readline(1 << 16)
    if named := re.fullmatch(r'"?sep=([,;\t|])"?\r?\n?', first):
        return named[1], 1
    widths = {d: _widths(text, d) for d in DELIMITERS}
    own = widths[usual]
    if own and (own[0] > 1 or len(own) < 2):
        return usual, 0
    fitting = [d for d, w in widths.items() if d != usual and len(w) > 1 and w[0] > 1 and len(set(w)) == 1]
    return (fitting[0] if len(fitting) == 1 else usual), 0


def _widths(text: Text, delimiter: str) -> list[int]:
    """How many values the first rows have."""
    widths: list[int] = []
    try:
        with text.open("") as f:
            for cells in csv.reader(f, delimiter=delimiter, strict=True):
                widths += [len(cells)] if cells else []
                if len(widths) == TRIED_ROWS:
                    break
    except csv.Error:
        return []
    return widths


# -- parquet


def _parquet(path: Path, shown: str) -> Iterator[Read]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            short = {field.name for field in file.schema_arrow if pa.types.is_float16(field.type) or pa.types.is_float32(field.type)}
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    yield Read({name: _plain(value, name in short) for name, value in row.items()}, Where(f"{shown}[{number}]"))
                    number += 1
    except (pa.ArrowException, ValueError, OverflowError, OSError) as e:
        raise InputError(f"not a readable parquet file: {first_line(e)}", where=shown, hint="is the download complete?") from None


def _plain(value: Any, short: bool = False) -> Any:
    """A value as a JSON file would have it: NaN is none, and a number of few bits has few digits."""
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if short and math.isfinite(value):
            import numpy as np

            return float(str(np.float32(value)))
    if isinstance(value, list):
        return [_filled(v) for v in value]
    return _filled(value)


def _filled(value: Any) -> Any:
    """Structs without the fields that stand there because another row has them."""
    if isinstance(value, dict):
        return {k: _filled(v) for k, v in value.items() if v is not None}
    return [_filled(v) for v in value] if isinstance(value, list) else value


READERS: dict[str, Callable[[Text, Say], Iterator[Read]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": lambda text, _say: _parquet(text.path, text.shown),
}
