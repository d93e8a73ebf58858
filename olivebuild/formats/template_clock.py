"""The date that chat templates write: which templates ask for it, and what they are told.

Imports nothing heavy.

transformers gives templates one way to read the clock, `strftime_now(format)`; so do the engines of
onnxruntime-genai and llama.cpp.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from olivebuild.core.errors import InvalidValue
from olivebuild.core.fs.small_files import parse_json, read_bytes

FUNCTION = "strftime_now"
FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
FOLDER = "additional_chat_templates"
FREEZE = "freeze"
_DEFINED = re.compile(rf"\bmacro\s+{FUNCTION}\s*\(")
_DIRECTIVE = re.compile(r"(?<!\{)%([-_0^#]*)(\d*)[EO]?([A-Za-z])")
_PERCENT = "\ue000"
"""Stands for a percent sign that was written twice; from the area for private use."""
_TEXT = "fixed_date_text"
"""The variable of the macro that stands in the place of the clock."""
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip


def today() -> str:
    """The date in UTC, `2026-11-28`: the same for everyone who builds at the same time."""
    return time.strftime("%Y-%m-%d", time.gmtime())


def check_date(text: str) -> str:
    """The date itself. Raises ValueError for what is not one."""
    if is_date(text):
        return text
    raise InvalidValue(f"{text!r} is not a date", "write it as 2026-11-28")


def is_date(text: str) -> bool:
    from datetime import date

    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def later(date: str, days: int) -> str:
    from datetime import datetime, timedelta

    return (datetime.fromisoformat(date) + timedelta(days)).date().isoformat()


def write(date: str, format_: str) -> str:
    """Return the beginning of that day as strftime writes it.

    In English whatever the locale is, and in UTC.
    """
    from datetime import UTC, datetime

    moment = datetime.fromisoformat(date)
    day, month = _DAYS[moment.weekday()], _MONTHS[moment.month - 1]
    fixed = {
        "A": day,
        "a": day[:3],
        "B": month,
        "b": month[:3],
        "h": month[:3],
        "p": "AM",
        "P": "am",
    }
    fixed["s"] = str(int(moment.replace(tzinfo=UTC).timestamp()))
    whole = {"c": "%a %b %e %H:%M:%S %Y", "x": "%m/%d/%y", "X": "%H:%M:%S", "r": "%I:%M:%S %p"}

    def written(match: re.Match[str]) -> str:
        flags, width, letter = match.groups()
        if letter in whole:
            return write(date, whole[letter])
        if letter not in fixed:
            return moment.strftime(match[0])
        text = fixed[letter].upper() if "^" in flags or "#" in flags else fixed[letter]
        return text.rjust(int(width or 0), "0" if "0" in flags else " ")

    return "%".join(_DIRECTIVE.sub(written, piece) for piece in format_.split("%%"))


def reads_clock(template: str) -> bool:
    """Return whether a template asks what day it is.

    One that has the answer in a macro of its own does not.
    """
    return FUNCTION in template and not _DEFINED.search(template)


def fixed(template: str, date: str) -> str:
    """Return the template with a macro in the place of its clock.

    It writes the same wherever it is rendered. Unchanged if it reads none.

    The macro knows the directives that stand in the template, and refuses others; without a date it
    refuses all.
    """
    if not reads_clock(template):
        return template
    macro = f"{{%- macro {FUNCTION}(format) -%}}{_answer(template, date)}{{%- endmacro -%}}"
    if not template[:1].isspace():
        return f"{macro}\n{template}"
    # What the macro's end would strip is written, except for what is stripped before a first block.
    return f"{macro}{{{{- '' }}}}" + re.sub(r"^[ \t]+(?=\{[%#])", "", template)


def _answer(template: str, date: str) -> str:
    if not date:
        return (
            "{{- raise_exception('the chat template reads the clock, and no date was given for "
            "it') "
            "-}}"
        )
    dates = {match[0]: write(date, match[0]) for match in _DIRECTIVE.finditer(template)}
    if "%%" in template:
        # Two percent signs are one in the text, and no directive begins with it.
        dates = {"%%": _PERCENT, **dates}
    # Not every engine has `replace`, or looks for a text in another, or ends a macro's variables
    # with it.
    steps = "".join(
        f"{{%- set {_TEXT} = {_TEXT}.split({_quoted(directive)}) | join({_quoted(value)}) -%}}"
        for directive, value in dates.items()
    )
    refusal = (
        f"{{%- if {_TEXT}.split('%') | length > 1 -%}}{{{{- raise_exception('no date is known for "
        f"' + format) -}}}}{{%- endif -%}}"
    )
    last = f".split('{_PERCENT}') | join('%')" if "%%" in dates else ""
    return f"{{%- set {_TEXT} = format -%}}{steps}{refusal}{{{{- {_TEXT}{last} -}}}}"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def templates_in(files: Mapping[str, bytes]) -> Iterator[str]:
    """The chat templates in a model's files, by the names of `FILES` and below `FOLDER`."""
    for name, data in files.items():
        text = data.decode("utf-8", "replace")
        if name.endswith(".jinja"):
            yield text
        elif "chat_template" in text:
            try:
                config = parse_json(text)
            except ValueError:
                # Whoever loads it tells.
                continue
            yield from _strings(config.get("chat_template") if isinstance(config, dict) else None)


def _strings(value: object) -> Iterator[str]:
    """A template, or several: [{"name": ..., "template": ...}], or by name."""
    if isinstance(value, str):
        yield value
    for item in (
        value
        if isinstance(value, list)
        else list(value.values())
        if isinstance(value, dict)
        else ()
    ):
        yield from _strings(item)


def fixed_file(name: str, data: bytes, date: str) -> bytes:
    """A file of a model folder with the date fixed in its templates."""
    if not any(map(reads_clock, templates_in({name: data}))):
        return data
    text = data.decode("utf-8")
    if name.endswith(".jinja"):
        return fixed(text, date).encode()
    config = json.loads(text)
    config["chat_template"] = _all_fixed(config["chat_template"], date)
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def _all_fixed(value: Any, date: str) -> Any:
    if isinstance(value, list):
        return [_all_fixed(item, date) for item in value]
    if isinstance(value, dict):
        return {name: _all_fixed(item, date) for name, item in value.items()}
    return fixed(value, date) if isinstance(value, str) else value


def holds_templates(name: str) -> bool:
    """Return whether a file of a model folder may have chat templates.

    `name` is relative to the folder.
    """
    return name in FILES or (name.startswith(f"{FOLDER}/") and name.endswith(".jinja"))


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a model folder that may hold chat templates.

    Raises OSError when there is no such folder.
    """
    files = {name: read_bytes(folder / name) for name in FILES if (folder / name).is_file()}
    if not files and not folder.is_dir():
        raise FileNotFoundError(folder)
    return files | {
        f"{FOLDER}/{path.name}": read_bytes(path)
        for path in sorted((folder / FOLDER).glob("*.jinja"))
        if path.is_file()
    }


def folder_reads_clock(folder: Path) -> bool:
    try:
        return any(map(reads_clock, templates_in(files_of(folder))))
    except OSError:
        return False
