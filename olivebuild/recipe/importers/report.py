"""The report of an import: what became of each leaf of the file, as lines and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from olivebuild.recipe.importers.olive.better import Side
from olivebuild.recipe.importers.olive.generation import Generation, TellTale, name_of
from olivebuild.recipe.importers.olive.importer import Import
from olivebuild.recipe.importers.olive.ledger import NAMES, Entry, Fate
from olivebuild.recipe.importers.positions import Placeholder, shown
from olivebuild.recipe.importers.secrets import FIELD, HIDDEN, hide

ORDER = (Fate.MAPPED, Fate.NO_EFFECT, Fate.MEANT_ELSE, Fate.REFUSED)
KEYS = {
    Fate.MAPPED: "mapped",
    Fate.NO_EFFECT: "no_effect",
    Fate.MEANT_ELSE: "meant_else",
    Fate.REFUSED: "refused",
}
LISTS = {
    "mapped": "mapped",
    "ignored": "no_effect",
    "differs": "meant_else",
    "refused": "refused",
}
"""Outcome of an entry of a conda file -> the list that it is in."""
OUTCOMES = {
    "mapped": NAMES[Fate.MAPPED],
    "ignored": NAMES[Fate.NO_EFFECT],
    "differs": NAMES[Fate.MEANT_ELSE],
    "refused": NAMES[Fate.REFUSED],
}
MOST = 70
"""Characters of a value that are shown."""

Line = tuple[str, str]
"""A style (`head`, `warn`, `dim` or "") and text."""


def to_json(done: Import, written: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the report as plain values; `written` maps what was written to its path."""
    report: dict[str, Any] = {
        "file": done.document.file,
        "written": dict(written or {}),
        "olive": _generation(done.generation),
        "counts": {KEYS[fate]: len(_of(done, fate)) for fate in ORDER},
    }
    for fate in ORDER:
        report[KEYS[fate]] = [_entry(entry) for entry in _of(done, fate)]
    report["placeholders"] = [
        {"path": shown(e.path), "line": e.line, "text": _text(e)} for e in done.placeholders
    ]
    report["template_lines"] = [{"line": n.line, "text": n.text} for n in done.document.notes]
    report |= {
        "targets": list(done.targets),
        "default": list(done.default),
        "executors": list(done.executors),
        "environments": _environments(done),
    }
    return report


def _of(done: Import, fate: Fate) -> list[Entry]:
    return [entry for entry in done.entries if entry.fate is fate]


def _entry(entry: Entry) -> dict[str, Any]:
    row: dict[str, Any] = {"path": shown(entry.path), "line": entry.line, "value": _value(entry)}
    if entry.field:
        row["field"] = entry.field
    if entry.fate is Fate.REFUSED:
        return row | {"fact": entry.text, "hint": entry.hint, "stops": entry.fatal}
    name = {Fate.MAPPED: "note", Fate.NO_EFFECT: "because", Fate.MEANT_ELSE: "does"}[entry.fate]
    return row | ({name: entry.text} if entry.text else {})


def _value(entry: Entry) -> object:
    """Return a leaf's value as JSON has it; a secret is hidden."""
    if isinstance(entry.value, Placeholder):
        return str(entry.value)
    if not isinstance(entry.value, str):
        return entry.value
    name = next((part for part in reversed(entry.path) if isinstance(part, str)), "")
    return HIDDEN if FIELD.search(name) else hide(entry.value)


def _text(entry: Entry) -> str:
    return entry.value.text if isinstance(entry.value, Placeholder) else ""


def _generation(generation: Generation) -> dict[str, Any]:
    def tale(told: TellTale) -> dict[str, Any]:
        first, last = name_of(told.first), name_of(told.last)
        return {
            "path": shown(told.path),
            "line": told.line,
            "word": told.what,
            "first": first,
            "last": last,
        }

    return {
        "version": generation.name,
        "by": generation.chosen,
        "first": name_of(generation.first),
        "last": name_of(generation.last),
        "tell_tales": [tale(t) for t in generation.tell_tales],
        "against": [tale(t) for t in generation.against],
    }


def to_lines(done: Import) -> Iterator[Line]:
    """Yield the report as lines with a style each."""
    yield from _generation_lines(done.generation)
    for fate in ORDER:
        entries = _of(done, fate)
        yield "", ""
        yield "head", f"{NAMES[fate]} ({len(entries)})"
        width = min(max((len(shown(e.path)) for e in entries), default=0), 60)
        for entry in entries:
            yield _style(entry), _line(entry, width)
    if done.placeholders:
        yield "", ""
        yield "head", f"placeholders ({len(done.placeholders)}): to be replaced in the recipe"
        for entry in done.placeholders:
            yield "warn", f"  line {entry.line:<4} {shown(entry.path)}: {_text(entry)}"
    if done.document.notes:
        yield "", ""
        yield "head", "lines that are no JSON"
        for note in done.document.notes:
            yield "dim", f"  line {note.line:<4} {note.text}"
    yield from _environment_lines(done)
    count = len(done.entries)
    yield "", ""
    yield "", f"{count} values: " + ", ".join(f"{len(_of(done, f))} {NAMES[f]}" for f in ORDER)


def _style(entry: Entry) -> str:
    return {Fate.NO_EFFECT: "dim", Fate.MEANT_ELSE: "warn", Fate.REFUSED: "warn"}.get(
        entry.fate, ""
    )


def _line(entry: Entry, width: int) -> str:
    text = f"  line {entry.line:<4} {shown(entry.path):<{width}}  {_short(_value(entry))}"
    if entry.field:
        text += f"  -> {entry.field}"
    if entry.text:
        text += f"  ({entry.text})" if entry.fate is Fate.MAPPED else f": {entry.text}"
    return f"{text}; {entry.hint}" if entry.fate is Fate.REFUSED and entry.hint else text


def _short(value: object) -> str:
    names: dict[object, str] = {True: "true", False: "false"}
    text = "null" if value is None else names[value] if isinstance(value, bool) else repr(value)
    return text if len(text) <= MOST else f"{text[: MOST - 3]}..."


def _generation_lines(generation: Generation) -> Iterator[Line]:
    first, last = name_of(generation.first), name_of(generation.last)
    span = first if first == last else f"{first} to {last}"
    reason = {
        "tell-tales": f"its words are those of {span}",
        "--olive-version": f"--olive-version says so; its words are those of {span}",
        "nothing": "nothing in it tells; --olive-version names another",
    }[generation.chosen]
    yield "", f"read as a workflow of Olive {generation.name}: {reason}"
    for told in generation.against:
        first, last = name_of(told.first), name_of(told.last)
        span = first if first == last else f"{first} to {last}"
        yield (
            "warn",
            f"  line {told.line:<4} {told.what} belongs to {span}, and is read as there",
        )


def _environment_lines(done: Import) -> Iterator[Line]:
    """Yield what became of each entry of the conda files."""
    for environment in done.environments:
        yield "", ""
        yield "head", f"{environment.source} -> {environment.name}"
        for line in environment.conda.lines:
            text = f"  {line.file}:{line.line:<4} {line.text}  {OUTCOMES[line.outcome]}"
            text += f" -> {line.to}" if line.to else ""
            text += f": {line.because}" if line.because else ""
            text += f"; {line.hint}" if line.hint else ""
            yield "" if line.outcome == "mapped" else "warn", text


def _environments(done: Import) -> list[dict[str, Any]]:
    return [
        {
            "file": environment.source,
            "written": environment.name,
            "lines": [
                {
                    "file": line.file,
                    "line": line.line,
                    "text": line.text,
                    "list": LISTS[line.outcome],
                    "to": line.to,
                    "because": line.because,
                    "hint": line.hint,
                }
                for line in environment.conda.lines
            ],
        }
        for environment in done.environments
    ]


def better_lines(sides: Iterable[Side]) -> Iterator[Line]:
    """Yield the fields in which the recommended recipe differs."""
    yield "", ""
    yield "head", "as Olive does it, and as we would recommend"
    empty = True
    for side in sides:
        empty = False
        literal, better = (_short(v) if v is not None else "-" for v in (side.literal, side.better))
        yield "", f"  {side.field}: {literal} -> {better}"
    if empty:
        yield "", "  no difference"
