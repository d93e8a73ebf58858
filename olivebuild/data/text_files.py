"""Files of text as they are found: packed or not, in several encodings. What is guessed is said."""

from __future__ import annotations

import codecs
import gzip
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from olivebuild.core.errors import InputError, Where, first_line
from olivebuild.core.fs import opening
from olivebuild.data.limits import lines_of, share_of_packed

Say = Callable[[str], None]


class _Unpacked(io.RawIOBase):
    """Reader of a packed file, as long as it keeps to a size that a text can have."""

    def __init__(self, path: Path, shown: str) -> None:
        self._share = share_of_packed(path, shown)
        self._source: Any = gzip.GzipFile(path) if path.suffix.lower() == ".gz" else _zstd(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._source.read(min(len(buffer), 1 << 16))
        except OSError as e:
            # pyarrow's errors are of this kind, too.
            raise EOFError(first_line(e)) from None
        self._share.take(len(data))
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
        return io.TextIOWrapper(
            _bytes(self.path, self.shown), encoding=self.encoding, newline=newline
        )


def _bytes(path: Path, shown: str) -> Any:
    return (
        io.BufferedReader(_Unpacked(path, shown), 1 << 16)
        if path.suffix.lower() in PACKINGS
        else opening.open_file(path)
    )


def encoding_of(path: Path, shown: str, say: Say) -> str:
    """Return the encoding of a text file.

    UTF-8; what a byte order mark says; or Windows' Western encoding where all of the file looks
    like it, which is said.
    """
    with _bytes(path, shown) as f:
        start = f.read(4)
        if start.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")):
            raise InputError(
                "the file is packed, and its name does not say so",
                where=shown,
                hint=f"packed files end in {' or '.join(PACKINGS)}",
            )
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            encoding = "utf-32" if start.startswith(codecs.BOM_UTF32_LE) else "utf-16"
            say(f"{shown} is read as {encoding.upper()}, as its byte order mark says")
            _check_decodes(path, shown, encoding)
            return encoding
        if b"\0" in start:
            fact = (
                "the file begins with a zero byte where text stands: it may be UTF-16 without a "
                "byte "
                "order mark"
            )
            raise InputError(fact, where=shown, hint="save the file as UTF-8")
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        data, is_other = start, False
        while data and not is_other:
            try:
                decoder.decode(data)
            except UnicodeDecodeError:
                is_other = True
            data = f.read(1 << 20)
        if not is_other:
            try:
                decoder.decode(b"", final=True)
                return "utf-8-sig"
            except UnicodeDecodeError:
                pass
    if not _is_western(path, shown):
        raise _not_utf8(path, shown)
    say(
        f"{shown} is no UTF-8: it is read as Windows-1252 (Western Europe); save it as UTF-8 if "
        "that is not what it is"
    )
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
        raise InputError(
            f"not {encoding.upper()} text, which its byte order mark says it is",
            where=shown,
            hint=hint,
        ) from None


# Two or more bytes that are one character in UTF-8.
_UTF8 = re.compile(rb"[\xc3-\xf4][\x80-\xbf]+")
# Letters of Western languages, and the signs that word processors write; no y with dots, which is
# what 0xFF bytes look like.
_SIGNS = rb"\x80\x82-\x85\x8a-\x8c\x8e\x91-\x97\x99-\x9c\x9e-\xa3\xa7-\xab\xae\xb0-\xb7\xba-\xbf"
_FOREIGN = re.compile(rb"[^\x00-\x7f" + _SIGNS + rb"\xc0-\xd6\xd8-\xf6\xf8-\xfe]")


def _is_western(path: Path, shown: str) -> bool:
    """Return whether the bytes beyond ASCII look like Western letters and signs.

    They are defined, seldom three in a row, and no UTF-8 is among them.
    """
    high = rows = 0
    with _bytes(path, shown) as f:
        for line in lines_of(f, shown):
            try:
                text = line.decode("cp1252")
            except UnicodeDecodeError:
                return False
            if b"\0" in line:
                return False
            letters = [c for c in text if c > "\x7f"]
            if not letters:
                continue
            try:
                line.decode()
            except UnicodeDecodeError:
                pass
            else:
                return False
            if _UTF8.search(line) or _FOREIGN.search(line):
                return False
            high, rows = high + len(letters), rows + len(re.findall(r"[À-ÿŠŒŽšœž]{3,}", text))
    return high > 0 and rows * 10 <= high


def _not_utf8(path: Path, shown: str) -> InputError:
    """Return the place of the first byte that is no text.

    The decoder's own position counts from wherever it began to read.
    """
    with _bytes(path, shown) as f:
        for number, line in enumerate(lines_of(f, shown), 1):
            try:
                line.decode()
            except UnicodeDecodeError as e:
                return InputError(
                    f"not UTF-8 text: byte {e.start + 1} of the line",
                    where=Where(shown, number),
                    hint="save the file as UTF-8",
                )
    return InputError("not UTF-8 text", where=shown, hint="save the file as UTF-8")
