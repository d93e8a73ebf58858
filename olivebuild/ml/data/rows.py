"""Rows of data files, rendered by templates."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivebuild.core.errors import InputError
from olivebuild.data.conversation import (
    conversation_of,
    has_system,
    tools_of,
    unread_in,
    why_not_trained,
)
from olivebuild.data.readers import Read, read_file
from olivebuild.data.slices import Slice
from olivebuild.data.templates import Slot, fill, names_with_marks, slots
from olivebuild.data.values import is_missing, text_of, tidied, why_not
from olivebuild.formats.source import Source

if TYPE_CHECKING:
    from olivebuild.api.job import Job
    from olivebuild.steps.dataset import DatasetFields

MAX_PLACES = 100


@dataclass(frozen=True)
class Row:
    """One rendered row.

    `content` is compared for near-duplicates: the columns of the prompt, without the template.
    `group` is the value of the column by which rows stay together, as JSON; "" where there is none.
    `origin` is its place in the data.
    """

    values: dict[str, str]
    label: str
    content: str
    group: str = ""
    origin: str = dataclasses.field(default="", compare=False)


@dataclass(frozen=True)
class Drop:
    """The reason why a row is left out.

    A row that says itself that it is not to be learnt has no fault.
    """

    why: str
    fault: bool = True


def _columns_in(text: str, columns: Collection[str]) -> list[str]:
    """Return the columns that a template names."""
    return [slot.column for slot in slots(text, columns)]


def read_all(job: Job, fields: DatasetFields, name: str) -> list[Read]:
    """Read all rows of `source` or `test`, in the order of the files.

    Raises InputError with file:line.
    """
    from olivebuild.ml.data.data_files import data_files
    from olivebuild.ml.models.fetch import fetch

    value = getattr(fields, name)
    rows: list[Read] = []
    for i, source in enumerate(value if isinstance(value, list) else [value]):
        assert isinstance(source, Source)
        files = job.files(f"{name}.{i}")
        if source.remote:
            files = _remote_files(fetch(job, source, dataset=True), source)
        for file in [q for p in files for q in (data_files(p, job, fields) if p.is_dir() else [p])]:
            rows += read_file(file, _shown(file, job), job.note)
            job.progress("reading", len(rows), 0)
    if not rows:
        raise InputError("there are no rows", where=job.where(name), hint="the files are empty")
    return _chosen(rows, job, fields) if name == "source" else rows


def _chosen(rows: list[Read], job: Job, fields: DatasetFields) -> list[Read]:
    """Return the rows of `slice` whose columns have the values of `where`.

    Raises InputError where none is left, or a column of `where` is in no row.
    """
    count = len(rows)
    if fields.slice is not None:
        rows = rows[Slice.parse(fields.slice).of(count)]
        if not rows:
            raise InputError(
                f"the slice has none of the {count} rows", where=job.where("slice"), hint="widen it"
            )
    for name, value in (fields.where or {}).items():
        if not any(name in row.columns for row in rows):
            columns = sorted({column for row in rows for column in row.columns})
            raise InputError(
                f"the data has no column {name!r}",
                where=job.where("where"),
                hint=f"the columns are {', '.join(columns)}",
            )
        rows = [row for row in rows if row.columns.get(name) == value]
        if not rows:
            raise InputError(
                f"no row has {value!r} in {name!r}",
                where=job.where("where"),
                hint="is it right?",
            )
    if len(rows) < count:
        job.note(f"{len(rows)} of {count} rows are chosen")
    return rows


def _remote_files(path: Path, source: Source) -> list[Path]:
    """Return what was fetched: all that a pattern matches, else a file or a folder."""
    if path.is_dir() and source.is_pattern:
        return sorted(p for p in path.rglob("*") if p.is_file())
    return [path]


def _shown(path: Path, job: Job) -> str:
    try:
        return path.relative_to(job.action.recipe_folder).as_posix()
    except ValueError:
        return str(path)


class _Counts:
    """The rows that are dropped, by reason."""

    def __init__(self) -> None:
        self.duplicates = 0
        self.rows: list[dict[str, str]] = []
        self._reasons: Counter[Drop] = Counter()
        self._first: dict[Drop, str] = {}

    def add(self, drop: Drop, where: str) -> None:
        """Count a dropped row; the first MAX_PLACES are listed."""
        self._reasons[drop] += 1
        self._first.setdefault(drop, where)
        if len(self.rows) < MAX_PLACES:
            self.rows.append({"where": where, "why": drop.why})

    def report(self, read: int) -> dict[str, Any]:
        """Return the counts as they are stored, of so many rows read."""
        return {
            "read": read,
            "duplicates": self.duplicates,
            "dropped": self._reasons.total(),
            "dropped_rows": self.rows,
            "drops": [
                {"why": d.why, "count": n, "first": self._first[d], "fault": d.fault}
                for d, n in self._reasons.most_common()
            ],
        }


def _conflicts(rows: list[Row]) -> list[str]:
    """Return the contents that stand with more than one label."""
    labels: dict[str, set[str]] = {}
    for row in rows:
        labels.setdefault(row.content, set()).add(row.label)
    return sorted(content for content, values in labels.items() if len(values) > 1)


@dataclass(frozen=True)
class Template:
    """The texts of one format (prompt and completion, say), and the columns of label and group."""

    format: str
    texts: dict[str, str]
    label: str | None
    group_by: str | None
    job: Job

    @staticmethod
    def of(fields: DatasetFields, job: Job) -> Template:
        from olivebuild.steps.dataset import FORMATS

        group = next(g for g in FORMATS if getattr(fields, g[0]) is not None)
        texts = {name: str(getattr(fields, name)) for name in group}
        return Template(group[0], texts, fields.label, fields.group_by, job)

    def render(self, rows: list[Read], dedupe: bool) -> tuple[list[Row], dict[str, Any]]:
        """Render rows without duplicates; return them, and what was dropped and why.

        Raises InputError when a column exists in no row.
        """
        columns: set[str] = set()
        for row in rows:
            columns |= row.columns.keys()
        self._check_columns(columns)
        marked = names_with_marks(columns)
        label = self.label or self._only_answer(marked)
        rows, changes = tidied(rows, self._names(label, marked))
        for line in [*changes, *self._unread(rows)]:
            self.job.note(line)
        result: list[Row] = []
        seen: set[str] = set()
        counts = _Counts()
        for row in rows:
            rendered = self._row(row, label, marked)
            if isinstance(rendered, Drop):
                counts.add(rendered, str(row.where))
                continue
            identity = json.dumps([rendered.values, rendered.label], sort_keys=True)
            if dedupe and identity in seen:
                counts.duplicates += 1
                continue
            seen.add(identity)
            result.append(rendered)
        report = counts.report(len(rows))
        return result, report | {"same_input_other_label": _conflicts(result)[:100]}

    def _names(self, label: str | None, marked: Collection[str]) -> list[str]:
        """Return the columns that are rendered, the label's first."""
        names = [label] if label else []
        if self.format != "messages":
            for text in self.texts.values():
                names += [slot.column for slot in slots(text, marked)]
        return names

    def _unread(self, rows: list[Read]) -> Iterator[str]:
        """Yield notes on how conversations are read."""
        if self.format != "messages":
            return
        name = self.texts["messages"]
        if count := sum(has_system(row.columns, name) for row in rows):
            yield (
                f"the column `system` of {count} rows is their first message, where they do not "
                "begin with one"
            )
        counts = Counter(key for row in rows for key in unread_in(row.columns.get(name)))
        if counts:
            shown = [
                f"`{key}` (in {n} rows)"
                for key, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            ]
            more = " and more" if len(shown) > 5 else ""
            yield f"messages have {', '.join(shown[:5])}{more}, which is not read"

    def _only_answer(self, marked: Collection[str]) -> str | None:
        """Return the column that the answer consists of, if it is one alone."""
        if len(self.texts) != 2:
            return None
        columns = {slot.column for slot in slots(list(self.texts.values())[1], marked)}
        return columns.pop() if len(columns) == 1 else None

    def _check_columns(self, columns: set[str]) -> None:
        """Raise InputError for a column that no row has, or that stands within another's text."""
        if self.format != "messages":
            for field, text in self.texts.items():
                self._check_nesting(field, text, columns)
        wanted: list[tuple[str, str]] = []
        for field, text in self.texts.items():
            names = [text] if self.format == "messages" else _columns_in(text, columns)
            wanted += [(field, name) for name in names]
        for field, column in (("label", self.label), ("group_by", self.group_by)):
            if column is not None:
                wanted.append((field, column))
        for field, name in wanted:
            if name not in columns:
                hint = (
                    f"the columns are {', '.join(sorted(columns))}; a literal brace is written "
                    "{{ or }}"
                )
                raise InputError(
                    f"the data has no column {name!r}", where=self.job.where(field), hint=hint
                )

    def _check_nesting(self, field: str, text: str, columns: set[str]) -> None:
        """Raise InputError for a column within the text of an optional one."""
        for name in columns:
            if re.search(r"\{" + re.escape(name) + r"\?[^{}]*\{[^{}]", text):
                raise InputError(
                    f"the text around {name!r} can't hold another column",
                    where=self.job.where(field),
                    hint="write {} for the value there, and other columns outside",
                )

    def _row(self, row: Read, label: str | None, marked: Collection[str]) -> Row | Drop:
        """Return the rendered row, or the reason why it is left out."""
        if self.format == "messages":
            return self._messages(row, label)
        used = {text: slots(text, marked) for text in self.texts.values()}
        if why := self._why_incomplete(row, [s for slots_ in used.values() for s in slots_], label):
            return Drop(why)
        values = {field: fill(text, row.columns, marked) for field, text in self.texts.items()}
        for field, text in self.texts.items():
            if used[text] and not values[field].strip():
                return Drop(f"{field} is empty")
        first = used[next(iter(self.texts.values()))]
        content = "\n".join(
            text_of(v)
            for slot in first
            if not (is_missing(v := row.columns.get(slot.column)) and slot.optional)
        )
        return Row(values, self._text(row, label), content, self._group(row), str(row.where))

    def _why_incomplete(self, row: Read, used: list[Slot], label: str | None) -> str:
        """Return why a row lacks a value that its texts need, or ""."""
        needed = {slot.column for slot in used if not slot.optional} | {self.label or ""}
        names = [slot.column for slot in used] + ([label] if label else [])
        for name in dict.fromkeys(names):
            value = row.columns.get(name)
            if name not in needed and is_missing(value):
                continue
            if why := why_not(name, value):
                return why
        return ""

    def _messages(self, row: Read, label: str | None) -> Row | Drop:
        """Return the rendered conversation, or the reason why it is left out."""
        name = self.texts["messages"]
        messages = conversation_of(row.columns, name)
        if isinstance(messages, str):
            return Drop(messages)
        if why := why_not_trained(messages):
            return Drop(*why)
        tools = tools_of(row.columns)
        if tools is None:
            return Drop("the tools are not a list of objects")
        if label and (fault := why_not(label, row.columns.get(label))):
            return Drop(fault)
        content = "\n".join(m["content"] for m in messages if m["role"] != "assistant")
        values = {"messages": json.dumps(messages, ensure_ascii=False)} | (
            {"tools": tools} if tools else {}
        )
        return Row(values, self._text(row, label), content, self._group(row), str(row.where))

    def _text(self, row: Read, name: str | None) -> str:
        return "" if name is None or is_missing(value := row.columns.get(name)) else text_of(value)

    def _group(self, row: Read) -> str:
        value = row.columns.get(self.group_by) if self.group_by is not None else None
        return (
            ""
            if is_missing(value)
            else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
        )
