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
from olivebuild.data.readers import READERS, Read, kind_of, read_file
from olivebuild.data.templates import fill, names_with_marks, slots
from olivebuild.data.values import is_missing, text_of, tidied, why_not
from olivebuild.formats.source import Source

if TYPE_CHECKING:
    from olivebuild.api.job import Job
    from olivebuild.steps.dataset import DatasetFields

MAX_PLACES = 100


@dataclass(frozen=True)
class Row:
    """One rendered row.

    `content` is what is compared for near-duplicates: the columns of the prompt, without the
    template.

    `group`: the value of the column by which rows stay together, as JSON; "" where there is none.
    `origin`: where it stands in the data.
    """

    values: dict[str, str]
    label: str
    content: str
    group: str = ""
    origin: str = dataclasses.field(default="", compare=False)


@dataclass(frozen=True)
class Drop:
    """Why a row is left out. One that says itself that it is not to be learnt has no fault."""

    why: str
    fault: bool = True


def read_all(job: Job, fields: DatasetFields, name: str) -> list[Read]:
    """All rows of `source` or `test`, in the order of the files.

    Raises InputError with file:line.
    """
    from olivebuild.ml.models.fetch import fetch

    value = getattr(fields, name)
    rows: list[Read] = []
    for i, source in enumerate(value if isinstance(value, list) else [value]):
        assert isinstance(source, Source)
        files = job.files(f"{name}.{i}")
        if source.remote:
            files = _data_files(fetch(job, source, dataset=True), job)
        for file in [q for p in files for q in (_data_files(p, job) if p.is_dir() else [p])]:
            rows += read_file(file, _shown(file, job), job.note)
            job.progress("reading", len(rows), 0)
    if not rows:
        raise InputError("there are no rows", where=job.where(name), hint="the files are empty")
    return rows


def _shown(path: Path, job: Job) -> str:
    try:
        return path.relative_to(job.action.recipe_folder).as_posix()
    except ValueError:
        return str(path)


def _data_files(folder: Path, job: Job) -> list[Path]:
    """The data files of a folder; where some have `train` in their names, those only."""

    def is_data(path: Path) -> bool:
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        return (
            bool(kind_of(path))
            and not hidden
            and path.name not in ("dataset_infos.json", "dataset_info.json")
        )

    found = sorted(filter(is_data, folder.rglob("*")))
    train = [p for p in found if "train" in p.relative_to(folder).as_posix()]
    if not found:
        raise InputError(
            "there are no data files in this folder",
            where=job.where("source"),
            hint=f"read are {', '.join(READERS)}",
        )
    if train and len(train) < len(found):
        left = [p.relative_to(folder).as_posix() for p in found if p not in train]
        job.note(
            f"{len(train)} of {len(found)} files of the folder are read, those named train; not "
            f"{', '.join(left[:5])}"
        )
    return train or found


@dataclass(frozen=True)
class Template:
    """How rows are rendered: the fields of one format (prompt and completion, say), and the columns
    of the label and of the group.
    """

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
        """Rendered rows without duplicates, and what was dropped and why.

        Raises InputError when a column exists in no row.
        """
        known = {name for row in rows for name in row.columns}
        self._check_columns(known)
        odd = names_with_marks(known)
        label = self.label or self._only_answer(odd)
        names = [label] if label else []
        if self.format != "messages":
            names += [slot.column for text in self.texts.values() for slot in slots(text, odd)]
        rows, turned = tidied(rows, names)
        for line in [*turned, *self._unread(rows)]:
            self.job.note(line)
        result: list[Row] = []
        seen: set[str] = set()
        dropped: list[dict[str, str]] = []
        reasons: Counter[Drop] = Counter()
        first: dict[Drop, str] = {}
        duplicates = 0
        for row in rows:
            rendered = self._row(row, label, odd)
            if isinstance(rendered, Drop):
                reasons[rendered] += 1
                first.setdefault(rendered, str(row.where))
                dropped += (
                    [{"where": str(row.where), "why": rendered.why}]
                    if len(dropped) < MAX_PLACES
                    else []
                )
                continue
            identity = json.dumps([rendered.values, rendered.label], sort_keys=True)
            if dedupe and identity in seen:
                duplicates += 1
                continue
            seen.add(identity)
            result.append(rendered)
        labels: dict[str, set[str]] = {}
        for r in result:
            labels.setdefault(r.content, set()).add(r.label)
        conflicts = sorted(content for content, found in labels.items() if len(found) > 1)
        report: dict[str, Any] = {
            "read": len(rows),
            "duplicates": duplicates,
            "dropped": reasons.total(),
            "dropped_rows": dropped,
        }
        report["drops"] = [
            {"why": d.why, "count": n, "first": first[d], "fault": d.fault}
            for d, n in reasons.most_common()
        ]
        return result, report | {"same_input_other_label": conflicts[:100]}

    def _unread(self, rows: list[Read]) -> Iterator[str]:
        """What there is to say of how conversations are read."""
        if self.format != "messages":
            return
        name = self.texts["messages"]
        if count := sum(has_system(row.columns, name) for row in rows):
            yield (
                f"the column `system` of {count} rows is their first message, where they do not "
                "begin "
                "with one"
            )
        counts = Counter(key for row in rows for key in unread_in(row.columns.get(name)))
        if counts:
            shown = [
                f"`{key}` (in {n} rows)"
                for key, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            ]
            yield (
                f"messages have {', '.join(shown[:5])}{' and more' if len(shown) > 5 else ''}, "
                "which "
                "is not read"
            )

    def _only_answer(self, odd: Collection[str]) -> str | None:
        """The column that the answer consists of, if it is one alone."""
        if len(self.texts) != 2:
            return None
        columns = {slot.column for slot in slots(list(self.texts.values())[1], odd)}
        return columns.pop() if len(columns) == 1 else None

    def _check_columns(self, known: set[str]) -> None:
        for field, text in self.texts.items() if self.format != "messages" else ():
            if cut := next(
                (
                    name
                    for name in known
                    if re.search(r"\{" + re.escape(name) + r"\?[^{}]*\{[^{}]", text)
                ),
                None,
            ):
                hint = "write {} for the value there, and other columns outside"
                raise InputError(
                    f"the text around {cut!r} can't hold another column",
                    where=self.job.where(field),
                    hint=hint,
                )
        wanted = [
            (field, [text] if self.format == "messages" else [s.column for s in slots(text, known)])
            for field, text in self.texts.items()
        ]
        wanted += [
            (field, [name])
            for field, name in (("label", self.label), ("group_by", self.group_by))
            if name is not None
        ]
        for field, names in wanted:
            for name in names:
                if name not in known:
                    hint = (
                        f"the columns are {', '.join(sorted(known))}; a literal brace is written "
                        f"{{{{ "
                        f"or }}}}"
                    )
                    raise InputError(
                        f"the data has no column {name!r}", where=self.job.where(field), hint=hint
                    )

    def _row(self, row: Read, label: str | None, odd: Collection[str]) -> Row | Drop:
        """The rendered row, or why it can't be."""
        if self.format == "messages":
            return self._messages(row, label)
        used = {text: slots(text, odd) for text in self.texts.values()}
        optional = {slot.column for found in used.values() for slot in found if slot.optional}
        optional -= {
            slot.column for found in used.values() for slot in found if not slot.optional
        } | {self.label or ""}
        for name in dict.fromkeys(
            [
                *(slot.column for found in used.values() for slot in found),
                *([label] if label else []),
            ]
        ):
            value = row.columns.get(name)
            why = None if name in optional and is_missing(value) else why_not(name, value)
            if why:
                return Drop(why)
        values = {field: fill(text, row.columns, odd) for field, text in self.texts.items()}
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

    def _messages(self, row: Read, label: str | None) -> Row | Drop:
        name = self.texts["messages"]
        messages = conversation_of(row.columns, name)
        if isinstance(messages, str):
            return Drop(messages)
        if why := why_not_trained(messages):
            return Drop(*why)
        tools = tools_of(row.columns)
        if tools is None:
            return Drop("the tools are not a list of objects")
        if label and (odd := why_not(label, row.columns.get(label))):
            return Drop(odd)
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
