"""YAML 1.2 text -> plain values, each with its place in the file. It knows nothing of recipes.

It follows the core schema (https://yaml.org/spec/1.2.2/#103-core-schema): `1e-4` is a number, `no`
is a string. It is stricter than the specification where a slip would be silent: duplicate keys,
tags and non-string keys are errors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import yaml

from olivebuild.core.errors import RecipeError, Where

MAX_VALUES = 500_000
"""Where aliases repeat what is written: a text of 100,000 targets may say more by itself."""
MAX_DEPTH = 40

Path = tuple[str | int, ...]


_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def _capitalised(word: str) -> str:
    return re.sub("[a-z]", lambda m: m[0].upper(), word, count=1)


_WORDS: dict[str, object] = {"": None, "~": None} | {
    spelling: value
    for word, value in {
        "null": None,
        "true": True,
        "false": False,
        ".nan": float("nan"),
        ".inf": float("inf"),
        "+.inf": float("inf"),
        "-.inf": float("-inf"),
    }.items()
    for spelling in (word, _capitalised(word), word.upper())
}


@dataclass
class Document:
    """A parsed text: its value, and the (line, column) of every key and value by path."""

    file: str
    lines: list[str]
    value: object = None
    places: dict[Path, tuple[int, int]] = field(default_factory=dict)
    overrides: dict[Path, str] = field(default_factory=dict)
    """path -> the command line's text, for values that come from there."""

    def where(self, path: Path) -> Where:
        """Return the place of a path, or of the nearest path above it that has one."""
        for overridden, text in self.overrides.items():
            if path[: len(overridden)] == overridden:
                return Where(text)
        while path and path not in self.places:
            path = path[:-1]
        line, column = self.places.get(path, (1, 1))
        text = self.lines[line - 1] if line <= len(self.lines) else ""
        return Where(self.file, line, column, text)


class _Loader(yaml.CSafeLoader):
    """libyaml's parser without implicit types: `_scalar` decides on the type of a plain scalar."""

    yaml_implicit_resolvers: dict[str, object] = {}


def parse(text: str, file: str) -> Document:
    """Return a parsed text. Raises RecipeError."""
    document = Document(file, text.splitlines())
    try:
        most = max(MAX_VALUES, _check_events(document, text))
        node = yaml.compose(text, Loader=_Loader)
        document.value = _Reader(document, most).read(node, (), 0) if node else None
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        text = document.lines[line - 1] if 0 < line <= len(document.lines) else ""
        fact = f"not valid YAML: {e.problem or e.context}"
        raise RecipeError(
            fact, where=Where(file, line, column, text), hint=_hint(e, text)
        ) from None
    except yaml.reader.ReaderError as e:
        before = text[: e.position].split("\n")
        where = Where(file, len(before), len(before[-1]) + 1)
        raise RecipeError(
            f"not valid YAML: {e.reason}", where=where, hint="is it a text file?"
        ) from None
    except UnicodeEncodeError:
        raise RecipeError(
            "not valid YAML: not UTF-8 text", where=Where(file, 1, 1), hint="is it a text file?"
        ) from None
    return document


def _check_events(document: Document, text: str) -> int:
    """Return how many keys and values are written, whatever aliases repeat.

    Raises RecipeError for nesting that is too deep, or a tag, before the tree is built.
    """
    depth = written = 0
    for event in yaml.parse(text, Loader=_Loader):
        written += isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent))
        mark = event.start_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        shown = document.lines[line - 1] if line <= len(document.lines) else ""
        where = Where(document.file, line, column, shown)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise RecipeError(
                f"nested deeper than {MAX_DEPTH} levels", where=where, hint="write it flatter"
            )
        tag = getattr(event, "tag", None)
        if tag:
            raise RecipeError(
                f"the tag {tag} is not allowed here", where=where, hint="write the plain value"
            )
    return written


def parse_value(text: str) -> object:
    """Return a value of the command line: `2e-4`, `[a, b]`, `text`."""
    return parse(text, "--set").value


def _hint(error: yaml.MarkedYAMLError, line: str) -> str:
    if "\t" in line:
        return "YAML is indented with spaces, not tabs"
    if "anchor" in str(error.problem) or "alias" in str(error.problem):
        return "quote text that begins with * or &"
    return 'text that holds ": ", " #", { or [ needs quotes'


class _Reader:
    def __init__(self, document: Document, most: int) -> None:
        """`most`: how many values are read."""
        self.document = document
        self.most = most
        self.count = 0

    def fail(self, fact: str, node: yaml.Node, hint: str) -> RecipeError:
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        return RecipeError(
            fact,
            where=Where(self.document.file, line, column, self.document.lines[line - 1]),
            hint=hint,
        )

    def read(self, node: yaml.Node, path: Path, depth: int) -> object:
        self.count += 1
        if self.count > self.most:
            raise self.fail(
                f"more than {self.most} values",
                node,
                "aliases that repeat aliases grow without bound",
            )
        if depth > MAX_DEPTH:
            # An alias may lead deeper than the text, even into itself.
            raise self.fail(f"nested deeper than {MAX_DEPTH} levels", node, "write it flatter")
        self.document.places.setdefault(
            path, (node.start_mark.line + 1, node.start_mark.column + 1)
        )
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, i), depth + 1) for i, item in enumerate(node.value)]
        return str(node.value) if getattr(node, "style", None) else _scalar(node.value)

    def mapping(self, node: yaml.MappingNode, path: Path, depth: int) -> dict[str, object]:
        result: dict[str, object] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.fail(
                    "a key must be a word", key_node, "text that begins with { or [ needs quotes"
                )
            key = str(key_node.value)
            if key in result:
                raise self.fail(f"{key} is given twice", key_node, "keep one of them")
            self.document.places[*path, key] = (
                key_node.start_mark.line + 1,
                key_node.start_mark.column + 1,
            )
            result[key] = self.read(value_node, (*path, key), depth + 1)
        return result


def _scalar(text: str) -> object:
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        if len(text) > 400:
            return text
        return int(text[2:], {"o": 8, "x": 16}[text[1]]) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
