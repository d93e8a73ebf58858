"""Texts of rows: Olive's templates (Python's str.format) as templates of ours, and their parts."""

from __future__ import annotations

import re
from string import Formatter

from olivebuild.core.errors import Problem

Part = tuple[str, str | None]
"""A text, and the column whose value stands after it."""
ANSWERS = (
    "<|assistant|>",
    "<|im_start|>assistant",
    "<|start_header_id|>assistant<|end_header_id|>",
    "<start_of_turn>model",
    "<|im_start|>model",
    "[/INST]",
    "### Assistant:",
    "### Response:",
    "### Answer:",
    "### Output:",
    "Assistant:",
    "Answer:",
    "Output:",
)
"""Marks after which the answer begins, in chat templates and instructions."""


def parts_of(template: str) -> list[Part] | Problem:
    """Return a template's texts and columns, or why it is no template of columns alone."""
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as e:
        return Problem(
            f"the template can't be read: {e}", "a brace that is meant is written {{ or }}"
        )
    parts: list[Part] = []
    for text, column, spec, conversion in parsed:
        if column is not None and (fault := _fault(column, spec, conversion)):
            return fault
        parts.append((text, column))
    return parts


def _fault(column: str, spec: str | None, conversion: str | None) -> Problem | None:
    if spec or conversion:
        return Problem(
            f"the template formats {column!r}, and values are written as they are here",
            "name the column alone",
        )
    if not column or column.isdigit():
        return Problem("the template has a slot without a column's name", "write {column}")
    if re.search(r"[.\[]", column):
        return Problem(
            f"the template takes a part of a value: {column!r}", "make it a column of the data"
        )
    return None


def written(parts: list[Part]) -> str:
    """Return parts as a template of ours, in which a doubled brace is a brace as well."""
    out = []
    for text, column in parts:
        out.append(_doubled(text))
        if column is not None:
            out.append("{" + _doubled(column) + "}")
    return "".join(out)


def _doubled(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def of_columns(columns: list[str]) -> str:
    """Return the template of columns that stand with a blank between them."""
    return written([(" " if i else "", column) for i, column in enumerate(columns)])


def halves(parts: list[Part]) -> tuple[str, str] | None:
    """Return prompt and completion of a template; None where it has no two parts.

    The completion begins behind the last mark of an answer, else with the last column. Each of the
    two must have a column.
    """
    for i in range(len(parts) - 1, -1, -1):
        text, _column = parts[i]
        ends = [end for mark in ANSWERS if (end := _end_of(text, mark))]
        if not ends:
            continue
        end = max(ends)
        end += len(text[end:]) - len(text[end:].lstrip())
        before = [*parts[:i], (text[:end], None)]
        after = [(text[end:], parts[i][1]), *parts[i + 1 :]]
        return _both(before, after)
    last = max((i for i, (_, column) in enumerate(parts) if column is not None), default=-1)
    if last < 0:
        return None
    before = [*parts[:last], (parts[last][0], None)]
    return _both(before, [("", parts[last][1]), *parts[last + 1 :]])


def _end_of(text: str, mark: str) -> int:
    at = text.rfind(mark)
    return at + len(mark) if at >= 0 else 0


def _both(prompt: list[Part], completion: list[Part]) -> tuple[str, str] | None:
    if not all(any(column for _, column in part) for part in (prompt, completion)):
        return None
    return written(prompt), written(completion)
