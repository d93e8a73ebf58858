"""Standard streams as they come.

Closed, of another encoding than UTF-8, a terminal that text from files could steer.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO

ESCAPE = "olivebuild.escape"
_MARKS = (
    "\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f"
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\U000e0001-\U000e007f"
)
"""Control characters but for tab, ESC and ends of lines; marks and overrides of direction; tags
that are not seen.
"""
_STEERS = re.compile(rf"[{_MARKS}]|\x1b(?!\[[0-9;?]*[A-Za-z])")
"""With ESC begin colours, and what draws rows again; nothing else of ours."""
_ODD = re.compile(f"[{_MARKS}\x1b\ufffe\uffff]")


def escaped(character: str) -> str:
    r"""As JSON writes it: `\u202e`. In a JSON text it says the same as the character."""
    number = ord(character)
    if number < 0x10000:
        return f"\\u{number:04x}"
    number -= 0x10000
    return f"\\u{0xD800 + (number >> 10):04x}\\u{0xDC00 + (number & 0x3FF):04x}"


def harmless(text: str) -> str:
    """Return text without what steers a terminal, but for what draws our own lines."""
    return (
        text
        if text.isascii() and text.isprintable()
        else _STEERS.sub(lambda match: escaped(match[0]), text)
    )


def plain(text: str) -> str:
    """Return text without characters that steer what shows it, or that documents may not hold."""
    return (
        text
        if text.isascii() and text.isprintable()
        else _ODD.sub(lambda match: escaped(match[0]), text)
    )


def json_text(value: object, indent: int | None = None) -> str:
    """JSON whose strings hold no character that steers what shows them: escapes stand for those."""
    # Not on the path of a build with nothing to do.
    import json

    return plain(json.dumps(value, indent=indent, ensure_ascii=False))


class Output:
    """A standard stream.

    On a terminal, what colours and draws passes; what can't come from us is shown as an escape.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name = stream, name
        self._filter = harmless if stream.isatty() else str

    def write(self, text: str) -> int:
        with self._named():
            return self._stream.write(self._filter(text) if isinstance(text, str) else text)

    def flush(self) -> None:
        with self._named():
            self._stream.flush()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            # Not a file of the cache, for once.
            e.filename = self._name
            raise

    @property
    def encoding(self) -> str:
        # click takes ASCII for a mistake, and would write UTF-8 past us.
        return (
            "latin-1"
            if codecs.lookup(self._stream.encoding).name == "ascii"
            else self._stream.encoding
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def fit() -> None:
    """Make standard output and error take any text."""
    codecs.register_error(ESCAPE, _escape)
    for name, called in (("stdout", "standard output"), ("stderr", "standard error")):
        stream: Any = getattr(sys, name)
        if not hasattr(stream, "reconfigure"):
            continue
        # What an answer from memory has left in it may not find a way out; that is told when it is
        # printed anew.
        with contextlib.suppress(OSError):
            stream.reconfigure(errors=ESCAPE)
            if sys.flags.utf8_mode and stream.isatty() and (encoding := _of_locale()):
                stream.reconfigure(encoding=encoding)
        setattr(sys, name, Output(stream, called))


def reopen() -> None:
    """Put nothing in the place of a closed stream.

    Else a file that is opened later would get its number, and what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != number:
                os.dup2(nothing, number)
                os.close(nothing)
            os.set_inheritable(number, True)
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115 - it is there until the end
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def _escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(map(escaped, error.object[error.start : error.end])), error.end


def _of_locale() -> str:
    """The locale's encoding, if it is another than UTF-8; that of C is none that anybody chose."""
    import locale

    encoding = codecs.lookup(locale.getencoding()).name
    return "" if encoding in ("utf-8", "ascii") else encoding
