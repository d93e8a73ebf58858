"""JSON text -> plain values, each with its place in the file.

The grammar is RFC 8259, and stricter where a slip would be silent: duplicate keys are errors.
Templates of configurations are no JSON as they stand. What they add is read, with a note for each
line: `<name>` or `{{name}}` as a value (a placeholder), the sections of mustache, and the lines of
the AI Toolkit that begin with `#` or `<!--`.
"""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path as File

from olivebuild.core.errors import RecipeError, Where
from olivebuild.core.fs.small_files import read_bytes
from olivebuild.recipe.importers.secrets import hide_in_line

MAX_BYTES = 8 << 20
MAX_DEPTH = 64
MAX_VALUES = 100_000
MAX_DIGITS = 400

TEXTS = ("text_template", "input_template", "output_template", "chat_template", "joiner")
"""Keys whose values are text for a model."""

Path = tuple[str | int, ...]

_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_BLANK = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORD = re.compile(r"[A-Za-z_][\w.]*")
_WORDS = {"true": True, "false": False, "null": None}
_SLOT = re.compile(r"<\s*([A-Za-z_][\w .-]*?)\s*>|\{\{\{?\s*([A-Za-z_][\w.-]*?)\s*\}?\}\}")
_MUSTACHE = re.compile(r"[ \t]*\{\{([#^/!])\s*([^}]*?)\s*\}\}[ \t]*")
_TOOLKIT = re.compile(r"[ \t]*(#\w+|<!--.*-->)[ \t]*")
_YOURS = re.compile(r"(?:your|<your|enter your|replace with)\b", re.IGNORECASE)
_PLAIN_KEY = re.compile(r"[A-Za-z_$][\w$-]*")


@dataclass(frozen=True)
class Placeholder:
    """A value that the author of the file left to its user."""

    text: str

    def __str__(self) -> str:
        return f"<placeholder: {self.text}>"


@dataclass(frozen=True, kw_only=True)
class Note:
    """A line that is no JSON and was read nevertheless, and what it was taken for."""

    line: int
    text: str


@dataclass(kw_only=True)
class Document:
    """A text as values, with the (line, column) of every key and every item by its path."""

    file: str
    lines: list[str]
    value: object = None
    places: dict[Path, tuple[int, int]] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)

    def line(self, path: Path) -> int:
        """Return the line of a path, or of the nearest path above it that has one."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, (1, 1))[0]

    def where(self, path: Path) -> Where:
        while path and path not in self.places:
            path = path[:-1]
        line, column = self.places.get(path, (1, 1))
        text = self.lines[line - 1] if line <= len(self.lines) else ""
        return Where(self.file, line, column, text)

    def leaves(self) -> dict[Path, object]:
        """Return each scalar, placeholder and empty mapping or list by its path."""
        return dict(_leaves((), self.value))


def _leaves(path: Path, value: object) -> Iterator[tuple[Path, object]]:
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from _leaves((*path, key), below)
    elif isinstance(value, list) and value:
        for i, below in enumerate(value):
            yield from _leaves((*path, i), below)
    else:
        yield path, value


def shown(path: Path) -> str:
    """Return a path as people write it: `passes.lora.config.target_modules[0]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f'["{part}"]'
    return text or "the file"


def read(file: File, name: str) -> Document:
    """Return a file's values. `name` stands in messages. Raises RecipeError."""
    try:
        if file.stat().st_size > MAX_BYTES:
            raise RecipeError(
                f"larger than {MAX_BYTES >> 20} MiB", where=name, hint="is it a configuration?"
            )
        raw = read_bytes(file)
    except FileNotFoundError:
        raise RecipeError(
            "there is no such file", where=name, hint="name the configuration to import"
        ) from None
    except OSError as e:
        raise RecipeError(
            f"can't be read: {(e.strerror or str(e)).lower()}",
            where=name,
            hint="name the configuration to import",
        ) from None
    except ValueError as e:
        raise RecipeError(
            f"can't be read: {e}", where=name, hint="name the configuration to import"
        ) from None
    return parse(_decoded(raw, name), name)


def _decoded(raw: bytes, name: str) -> str:
    """Return the text of a file in UTF-8, its byte order mark taken off. Raises RecipeError."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw[:4]:
        raise RecipeError(
            "UTF-16 or UTF-32, which JSON files are not", where=name, hint="save it as UTF-8"
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = raw[: e.start].count(b"\n") + 1
        raise RecipeError(
            f"not UTF-8 text: byte {e.start}", where=Where(name, line), hint="save it as UTF-8"
        ) from None


def parse(text: str, file: str) -> Document:
    """Return a text's values. Raises RecipeError."""
    if text.lstrip().startswith("---") or _looks_like_yaml(text):
        raise RecipeError(
            "YAML, not JSON",
            where=Where(file, 1),
            hint="write the workflow as JSON and import that",
        )
    # Lines are shown beside errors.
    document = Document(file=file, lines=[hide_in_line(line) for line in text.splitlines()])
    reader = _Reader(document, _without_template(document, text))
    document.value = reader.document_value()
    return document


def _looks_like_yaml(text: str) -> bool:
    first = next((line for line in text.splitlines() if line.strip()), "")
    return re.match(r"[A-Za-z_]\w*:(\s|$)", first) is not None


def _without_template(document: Document, text: str) -> str:
    """Return the text with blanks for what templates add around JSON, and note each such line."""
    out: list[str] = []
    skipping: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        body = line.rstrip("\r")
        if section := _MUSTACHE.fullmatch(body):
            _section(document, number, section, skipping)
            out.append(" " * len(line))
        elif skipping:
            note = f"left out: the branch without {skipping[-1]}"
            document.notes.append(Note(line=number, text=note))
            out.append(" " * len(line))
        elif _TOOLKIT.fullmatch(body):
            note = "a comment of the template: left out"
            document.notes.append(Note(line=number, text=note))
            out.append(" " * len(line))
        else:
            out.append(line)
    return "\n".join(out)


def _section(document: Document, number: int, match: re.Match[str], skipping: list[str]) -> None:
    sign, name = match[1], match[2]
    if sign == "^":
        skipping.append(name)
    elif sign == "/" and skipping and skipping[-1] == name:
        skipping.pop()
    word = {"#": "begins", "^": "else of", "/": "ends"}.get(sign, "comment:")
    text = f"template: {word} {name}" + (", taken as given" if sign == "#" else "")
    document.notes.append(Note(line=number, text=text))


class _Reader:
    """A recursive-descent parser, whose depth MAX_DEPTH bounds."""

    def __init__(self, document: Document, text: str) -> None:
        self.document = document
        self.text = text
        self.at = 0
        self.count = 0
        self.starts = [0, *(m.end() for m in re.finditer("\n", text))]

    def place(self, at: int) -> tuple[int, int]:
        line = bisect.bisect_right(self.starts, at)
        return line, at - self.starts[line - 1] + 1

    def fail(self, fact: str, at: int, hint: str = "is a comma or a quote missing?") -> RecipeError:
        line, column = self.place(at)
        shown_line = self.document.lines[line - 1] if line <= len(self.document.lines) else ""
        where = Where(self.document.file, line, column, shown_line)
        return RecipeError(f"not valid JSON: {fact}", where=where, hint=hint)

    def blank(self) -> str:
        """Skip blanks, and return the next character; "" at the end."""
        match = _BLANK.match(self.text, self.at)
        self.at = match.end() if match else self.at
        following = self.text[self.at : self.at + 1]
        if following in ("/", "#") and self.text[self.at : self.at + 2] != "</":
            raise self.fail("a comment", self.at, "JSON has none: take it out")
        return following

    def document_value(self) -> object:
        if not self.blank():
            raise self.fail("the file is empty", 0, "name the configuration to import")
        value = self.value((), 0)
        if self.blank():
            raise self.fail("more text after the end", self.at, "a file holds one value")
        return value

    def value(self, path: Path, depth: int) -> object:
        self.count += 1
        if depth > MAX_DEPTH:
            raise self.fail(f"nested deeper than {MAX_DEPTH} levels", self.at, "write it flatter")
        if self.count > MAX_VALUES:
            raise self.fail(f"more than {MAX_VALUES} values", self.at, "is it a configuration?")
        self.document.places.setdefault(path, self.place(self.at))
        character = self.text[self.at : self.at + 1]
        if slot := _SLOT.match(self.text, self.at):
            self.at = slot.end()
            name = slot[1] or slot[2]
            text = f"{slot[0]} is no JSON: taken for a placeholder"
            self.document.notes.append(Note(line=self.place(slot.start())[0], text=text))
            return Placeholder(name)
        if character == "{":
            return self.mapping(path, depth)
        if character == "[":
            return self.sequence(path, depth)
        if character == '"':
            return _with_placeholder(self.string(), str(path[-1]) if path else "")
        return self.scalar()

    def string(self) -> str:
        match = _STRING.match(self.text, self.at)
        if not match:
            raise self.fail(*self._unterminated())
        try:
            value = str(json.loads(match[0]))
        except ValueError as e:
            at = self.at + getattr(e, "pos", 0)
            raise self.fail(
                "an unknown escape in text", at, 'write a backslash as "\\\\"'
            ) from None
        if any("\ud800" <= c <= "\udfff" for c in value):
            raise self.fail("half of a surrogate pair", self.at, "write the character itself")
        if "\0" in value:
            raise self.fail("a zero character in text", self.at, "no name or path holds one")
        self.at = match.end()
        return value

    def _unterminated(self) -> tuple[str, int, str]:
        """Return what is wrong with text that has no end, or holds a control character."""
        match = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*').match(self.text, self.at)
        end = match.end() if match else self.at
        following = self.text[end : end + 1]
        if following in ("\n", "\r", ""):
            return "text that does not end on its line", self.at, "is a quote missing?"
        return "a control character in text", end, 'write it as an escape, such as "\\t"'

    def scalar(self) -> object:
        if match := _NUMBER.match(self.text, self.at):
            number = match[0]
            if len(number) > MAX_DIGITS:
                raise self.fail(f"a number of {len(number)} digits", self.at, "write a shorter one")
            value: object = float(number) if match[1] or match[2] else int(number)
            if value in (float("inf"), float("-inf")):
                raise self.fail("a number that is too large", self.at, "write a smaller one")
            self.at = match.end()
            return value
        if (match := _WORD.match(self.text, self.at)) and match[0] in _WORDS:
            self.at = match.end()
            return _WORDS[match[0]]
        raise self.fail(*self._unexpected(match))

    def _unexpected(self, word: re.Match[str] | None) -> tuple[str, int, str]:
        character = self.text[self.at : self.at + 1]
        if word:
            hint = {
                "True": "write true",
                "False": "write false",
                "None": "write null",
                "NaN": "JSON has no such number",
                "Infinity": "JSON has no such number",
            }.get(word[0], "text needs quotes")
            return f"{word[0]!r} is no value", self.at, hint
        if character == "'":
            return "a single quote", self.at, 'JSON takes double quotes: "text"'
        if character in ("}", "]"):
            return f"{character!r} where a value must stand", self.at, "is a comma too many there?"
        if not character:
            return "the file ends too early", self.at, "is a closing bracket missing?"
        return f"{character!r} where a value must stand", self.at, "text needs quotes"

    def mapping(self, path: Path, depth: int) -> dict[str, object]:
        result: dict[str, object] = {}
        self.at += 1
        if self.blank() == "}":
            self.at += 1
            return result
        while True:
            start = self.at
            if self.blank() != '"':
                raise self.fail(*self._no_key())
            start = self.at
            key = _key(self.string())
            if key in result:
                raise self.fail(f"the key {key!r} is given twice", start, "keep one of them")
            self.document.places[*path, key] = self.place(start)
            if self.blank() != ":":
                raise self.fail(f"no colon after the key {key!r}", self.at, f'write "{key}": value')
            self.at += 1
            self.blank()
            result[key] = self.value((*path, key), depth + 1)
            if not self.more("}"):
                return result

    def _no_key(self) -> tuple[str, int, str]:
        character = self.text[self.at : self.at + 1]
        if character == "}":
            return "a comma before '}'", self.at, "take the last comma out"
        if not character:
            return "the file ends too early", self.at, "is a closing bracket missing?"
        if character == "'":
            return "a single quote", self.at, 'JSON takes double quotes: "key"'
        return f"{character!r} where a key must stand", self.at, 'keys need quotes: "key": value'

    def sequence(self, path: Path, depth: int) -> list[object]:
        result: list[object] = []
        self.at += 1
        if self.blank() == "]":
            self.at += 1
            return result
        while True:
            if self.blank() == "]":
                raise self.fail("a comma before ']'", self.at, "take the last comma out")
            result.append(self.value((*path, len(result)), depth + 1))
            if not self.more("]"):
                return result

    def more(self, end: str) -> bool:
        """Read a comma or the end of a mapping or list; return whether more follows."""
        character = self.blank()
        if character not in (",", end):
            fact = f"{character!r} where a comma or {end!r} must stand"
            raise self.fail(fact if character else "the file ends too early", self.at)
        self.at += 1
        return character == ","


def _key(key: str) -> str:
    """Return a key; `<data_files>`, as the AI Toolkit's templates write it, is data_files."""
    slot = _SLOT.fullmatch(key)
    return (slot[1] or slot[2]) if slot else key


def _with_placeholder(value: str, key: str) -> str | Placeholder:
    """Return a string, or the placeholder that it is as a whole.

    Placeholders are `<name>`, `{{name}}`, and text such as "Your Azure Subscription ID", unless
    the key is one of a template, whose text may begin so.
    """
    text = value.strip()
    if key in TEXTS:
        return value if not (slot := _SLOT.fullmatch(text)) else Placeholder(slot[1] or slot[2])
    if slot := _SLOT.fullmatch(text):
        return Placeholder(slot[1] or slot[2])
    if _YOURS.match(text) and " " in text:
        return Placeholder(text.strip("<> "))
    if re.search(r"(^|/)\{\{\s*[A-Za-z_]\w*\s*\}\}(/|$)", text):
        return Placeholder(text)
    return value
