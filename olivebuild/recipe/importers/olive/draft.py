"""Draft of a recipe: targets whose every line says where in the imported file it comes from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from olivebuild.api.node import NAME
from olivebuild.core.fs import portable_names
from olivebuild.recipe.command_names import COMMANDS, NEWER_COMMANDS
from olivebuild.recipe.importers.positions import Document, Path, Placeholder, shown

_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./+-]*")
_SPECIAL = {"null", "true", "false", "yes", "no", "on", "off", "~", ".nan", ".inf"}
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
WIDTH = 100


@dataclass(frozen=True, kw_only=True)
class Alternatives:
    """Values of a field that a search chose from; they become an axis of the target's `matrix`."""

    values: tuple[object, ...]


@dataclass(frozen=True, kw_only=True)
class Ref:
    """A target's name as a value."""

    target: str
    output: str = ""

    def __str__(self) -> str:
        return f"{self.target}.{self.output}" if self.output else self.target


@dataclass(frozen=True, kw_only=True)
class Line:
    """A field's value and where it comes from."""

    value: object
    origin: str = ""
    paths: tuple[Path, ...] = ()


@dataclass(kw_only=True)
class DraftTarget:
    """A target to be. Fields may be nested: `training.lr`."""

    name: str
    kind: str
    document: Document
    comments: list[str] = field(default_factory=list)
    fields: dict[str, Line] = field(default_factory=dict)

    def set(self, name: str, value: object, *paths: Path, note: str = "") -> None:
        """Set a field. `paths`: what it comes from; `note`: what to say beside it.

        A later value replaces an earlier one.
        """
        origin = _origin(self.document, paths, note)
        self.fields[name] = Line(value=value, origin=origin, paths=paths)

    def get(self, name: str) -> object:
        """Return a field's value; None if it is not set."""
        line = self.fields.get(name)
        return line.value if line else None

    def drop(self, name: str) -> None:
        self.fields.pop(name, None)

    def comment(self, text: str) -> None:
        """Write a line of its own above the target."""
        self.comments.append(text)


class Draft:
    """A recipe to be."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.heading: list[str] = []
        self.targets: dict[str, DraftTarget] = {}
        self.executors: dict[str, dict[str, Line]] = {}
        self.default: list[str] = []

    def target(self, name: str, kind: str, *paths: Path) -> DraftTarget:
        """Return a new target. Its name is made of `name`, and is no other target's."""
        free = self.free_name(name)
        target = DraftTarget(name=free, kind=kind, document=self.document)
        target.set("kind", kind, *paths)
        self.targets[free] = target
        return target

    def free_name(self, wish: str) -> str:
        """Return a name for a target that no other has, as near to `wish` as names can be."""
        base = word(wish)
        name, n = base, 1
        while name in self.targets:
            n += 1
            name = f"{base}-{n}"
        return name

    def text(self) -> str:
        """Return the recipe."""
        out = [*(part for line in self.heading for part in comment(line) or ["#"]), "version: 1"]
        if self.default:
            names = self.default
            out.append(f"default: {names[0] if len(names) == 1 else '[' + ', '.join(names) + ']'}")
        if self.executors:
            out.append("executors:")
            for name, lines in self.executors.items():
                out.append(f"  {name}:")
                out += _mapping(_nested(lines), "    ")
        out.append("targets:")
        for target in self.targets.values():
            for text in target.comments:
                out += comment(_one_line(text), "  ")
            out.append(f"  {target.name}:")
            out += _mapping(_nested(_with_matrix(target.fields)), "    ")
        return "\n".join(out) + "\n"


def word(text: str) -> str:
    """Return text as a target's name: lower case, portable, and no command's."""
    name = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:40].rstrip("-_") or "target"
    if name in (*COMMANDS, *NEWER_COMMANDS) or name in portable_names.DEVICES:
        name = f"{name}-target"
    return name if NAME.fullmatch(name) else f"t-{name}"


def _origin(document: Document, paths: Sequence[Path], note: str) -> str:
    places = [f"{shown(path)}, line {document.line(path)}" for path in paths]
    return "; ".join([*places, *([note] if note else [])])


def _with_matrix(fields: dict[str, Line]) -> dict[str, Line]:
    """Return fields with alternatives as axes of a matrix."""
    plain = {k: v for k, v in fields.items() if not isinstance(v.value, Alternatives)}
    for name, line in fields.items():
        if isinstance(line.value, Alternatives):
            axis = Line(value=list(line.value.values), origin=line.origin)
            plain[f"matrix\0{name}"] = axis
    return plain


def _nested(lines: dict[str, Line]) -> dict[str, object]:
    """Return dotted fields as mappings; an axis of a matrix keeps its dots."""
    result: dict[str, object] = {}
    for name, line in lines.items():
        *above, last = name.split("\0") if "\0" in name else name.split(".")
        table = result
        for part in above:
            below = table.setdefault(part, {})
            if not isinstance(below, dict):
                below = table[part] = {}
            table = below
        table[last] = line
    return result


def _mapping(table: dict[str, object], indent: str) -> list[str]:
    out = []
    for name, value in table.items():
        if isinstance(value, Line):
            out += _field(name, value, indent)
        else:
            assert isinstance(value, dict)
            out.append(f"{indent}{name}:")
            out += _mapping(value, indent + "  ")
    return out


def _field(name: str, line: Line, indent: str) -> list[str]:
    """Return a field's line, with its origin at its end, or above it where it would be long."""
    text = f"{indent}{_scalar(name)}: {yaml(line.value)}"
    if not line.origin:
        return [text]
    origin = _one_line(line.origin)
    if len(text) + len(origin) + 4 <= WIDTH:
        return [f"{text}  # {origin}"]
    return [*comment(origin, indent), text]


def comment(text: str, indent: str = "") -> list[str]:
    """Return text as lines of comment, broken between words where it is long."""
    import textwrap

    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _one_line(text: str) -> str:
    """Return text that can stand in a comment."""
    return "".join(c if c.isprintable() else " " for c in text)


def yaml(value: object) -> str:
    """Return a value in YAML's flow style, which our reader reads back as the same value."""
    if isinstance(value, Alternatives):
        return " | ".join(map(yaml, value.values))
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(str(k))}: {yaml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(yaml, value)) + "]"
    if isinstance(value, Placeholder | Ref):
        value = str(value)
    return _scalar(str(value))


def _scalar(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _SPECIAL and not _numeric(text):
        return text
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(c: str) -> str:
    """Return a character inside YAML's double quotes."""
    if c in _ESCAPES:
        return _ESCAPES[c]
    if c.isprintable():
        return c
    code = ord(c)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
