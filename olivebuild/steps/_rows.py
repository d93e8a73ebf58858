"""Reading data files with the line of every row, and rendering rows by templates. Substitution only: nothing is evaluated."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivebuild.errors import InputError, Where
from olivebuild.sources import Source

if TYPE_CHECKING:
    from olivebuild.steps.dataset import DatasetFields
    from olivebuild.worker import Job

_SLOT = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Read:
    """One row of a file: its columns and where it stands."""

    columns: dict[str, Any]
    where: Where


@dataclass(frozen=True)
class Row:
    """One rendered row. `content` is what is compared for near-duplicates: the columns of the prompt, without the template."""

    values: dict[str, str]
    label: str
    content: str


def read_all(job: Job, fields: DatasetFields, name: str) -> list[Read]:
    """All rows of `source` or `test`, in the order of the files. Raises InputError with file:line."""
    from olivebuild.steps._fetch import fetch

    value = getattr(fields, name)
    rows: list[Read] = []
    for i, source in enumerate(value if isinstance(value, list) else [value]):
        assert isinstance(source, Source)
        files = job.files(f"{name}.{i}")
        if source.remote:
            files = _data_files(fetch(job, source, dataset=True), job)
        for file in [q for p in files for q in (_data_files(p, job) if p.is_dir() else [p])]:
            rows += read_file(file, _shown(file, job))
            job.progress("reading", len(rows), 0)
    if not rows:
        raise InputError("there are no rows", where=job.where(name), hint="the files are empty")
    return rows


def read_file(path: Path, shown: str) -> Iterator[Read]:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"files of type {path.suffix or 'none'} are not read", where=shown, hint=f"known are {', '.join(READERS)}")
    try:
        yield from reader(path, shown)
    except UnicodeDecodeError:
        raise _not_utf8(path, shown) from None


def _not_utf8(path: Path, shown: str) -> InputError:
    """The place of the first byte that is no text: the decoder's own position counts from wherever it began to read."""
    with open(path, "rb") as f:
        for number, line in enumerate(f, 1):
            try:
                line.decode()
            except UnicodeDecodeError as e:
                return InputError(f"not UTF-8 text: byte {e.start + 1} of the line", where=Where(shown, number), hint="save the file as UTF-8")
    return InputError("not UTF-8 text", where=shown, hint="save the file as UTF-8")


def _shown(path: Path, job: Job) -> str:
    try:
        return path.relative_to(job.action.recipe_folder).as_posix()
    except ValueError:
        return str(path)


def _data_files(folder: Path, job: Job) -> list[Path]:
    """The data files of a folder; where some have `train` in their names, those only."""

    def is_data(path: Path) -> bool:
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        return path.suffix.lower() in READERS and not hidden and path.name not in ("dataset_infos.json", "dataset_info.json")

    found = sorted(filter(is_data, folder.rglob("*")))
    train = [p for p in found if "train" in p.relative_to(folder).as_posix()]
    if not found:
        raise InputError("there are no data files in this folder", where=job.where("source"), hint=f"read are {', '.join(READERS)}")
    return train or found


def _reject_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} is given twice")
    return result


def _jsonl(path: Path, shown: str) -> Iterator[Read]:
    with open(path, encoding="utf-8-sig", newline="\n") as f:
        for number, line in enumerate(f, 1):
            if not line.strip():
                continue
            where = Where(shown, number, text=line.rstrip("\r\n")[:200])
            try:
                value = json.loads(line.rstrip("\r\n"), object_pairs_hook=_unique, parse_constant=_reject_constant)
            except json.JSONDecodeError as e:
                hint = "each line of a .jsonl file is one JSON object"
                raise InputError(f"not valid JSON: {e.msg}", where=Where(shown, number, e.colno, where.text), hint=hint) from None
            except (ValueError, RecursionError) as e:
                raise InputError(f"not valid JSON: {e}", where=where, hint="each line of a .jsonl file is one JSON object") from None
            yield Read(_object(value, where), where)


def _json(path: Path, shown: str) -> Iterator[Read]:
    text = path.read_text("utf-8-sig")
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_reject_constant)
    except json.JSONDecodeError as e:
        hint = "one JSON object a line needs the ending .jsonl" if e.msg == "Extra data" else "is the file whole?"
        raise InputError(f"not valid JSON: {e.msg}", where=Where(shown, e.lineno, e.colno), hint=hint) from None
    except (ValueError, RecursionError) as e:
        raise InputError(f"not valid JSON: {e}", where=shown, hint="a .json data file holds a list of objects") from None
    if isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list)]
        value = lists[0] if len(lists) == 1 else value
    if not isinstance(value, list):
        raise InputError("not a list of rows", where=shown, hint="a .json data file holds a list of objects")
    for i, item in enumerate(value):
        where = Where(f"{shown}[{i}]")
        yield Read(_object(item, where), where)


def _object(value: object, where: Where) -> dict[str, Any]:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError("half a surrogate pair is no text", where=where, hint="was the file cut inside an escape like \\ud83d\\ude00?") from None
    if not isinstance(value, dict):
        raise InputError("a row must be a JSON object", where=where, hint='a row names its columns: {"column": "value"}')
    return value


def _csv(path: Path, shown: str) -> Iterator[Read]:
    csv.field_size_limit(LONGEST_VALUE)
    with open(path, encoding="utf-8-sig", newline="") as f:
        reader = csv.reader(f, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        start = 1
        header: list[str] | None = None
        try:
            for cells in reader:
                where, start = Where(shown, start), reader.line_num + 1
                if not cells:
                    continue
                if header is None:
                    header = cells
                    if len(set(header)) != len(header):
                        raise InputError("a column name stands twice in the header", where=where, hint="rename one of them")
                    continue
                if len(cells) != len(header):
                    hint = "a value that holds a comma needs quotes"
                    raise InputError(f"{len(cells)} values, the header has {len(header)} columns", where=where, hint=hint)
                yield Read(dict(zip(header, cells, strict=True)), where)
        except csv.Error as e:
            raise InputError(f"not valid CSV: {e}", where=Where(shown, start), hint="a quote inside a quoted value is doubled") from None


def _parquet(path: Path, shown: str) -> Iterator[Read]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    yield Read(row, Where(f"{shown}[{number}]"))
                    number += 1
    except (pa.ArrowException, ValueError, OverflowError, OSError) as e:
        raise InputError(f"not a readable parquet file: {(str(e).splitlines() or ['?'])[0]}", where=shown, hint="is the download complete?") from None


@dataclass(frozen=True)
class Template:
    """How rows are rendered: the fields of one format (prompt and completion, say), and the label's column."""

    format: str
    texts: dict[str, str]
    label: str | None
    job: Job

    @staticmethod
    def of(fields: DatasetFields, job: Job) -> Template:
        from olivebuild.steps.dataset import FORMATS

        group = next(g for g in FORMATS if getattr(fields, g[0]) is not None)
        texts = {name: str(getattr(fields, name)) for name in group}
        label = fields.label
        if label is None and len(group) == 2:
            columns = set(columns_in(texts[group[1]]))
            label = columns.pop() if len(columns) == 1 else None
        return Template(group[0], texts, label, job)

    def render(self, rows: list[Read], dedupe: bool) -> tuple[list[Row], dict[str, Any]]:
        """Rendered rows without duplicates, and what was dropped and why. Raises InputError when a column exists in no row."""
        known = {name for row in rows for name in row.columns}
        for field, text in self.texts.items():
            self._check_columns(field, [text] if self.format == "messages" else columns_in(text), known)
        if self.label is not None:
            self._check_columns("label", [self.label], known)
        result: list[Row] = []
        seen: set[str] = set()
        dropped: list[dict[str, str]] = []
        duplicates = 0
        for row in rows:
            rendered = self._row(row)
            if isinstance(rendered, str):
                dropped.append({"where": str(row.where), "why": rendered})
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
        report = {"read": len(rows), "duplicates": duplicates, "dropped": len(dropped)}
        return result, report | {"dropped_rows": dropped[:100], "same_input_other_label": conflicts[:100]}

    def _check_columns(self, field: str, names: list[str], known: set[str]) -> None:
        for name in names:
            if name not in known:
                hint = f"the columns are {', '.join(sorted(known))}; a literal brace is written {{{{ or }}}}"
                raise InputError(f"the data has no column {name!r}", where=self.job.where(field), hint=hint)

    def _row(self, row: Read) -> Row | str:
        """The rendered row, or why it can't be."""
        if self.format == "messages":
            return self._messages(row)
        used = [name for text in self.texts.values() for name in columns_in(text)]
        for name in [*used, *([self.label] if self.label else [])]:
            value = row.columns.get(name)
            if value is None or (isinstance(value, str) and not value.strip()):
                return f"no value for {name}"
            if not isinstance(value, str | int | float | bool):
                return f"{name} is not text"
        values = {field: fill(text, row.columns) for field, text in self.texts.items()}
        first = next(iter(self.texts.values()))
        content = "\n".join(_text(row.columns[name]) for name in columns_in(first))
        return Row(values, _text(row.columns[self.label]) if self.label else "", content)

    def _messages(self, row: Read) -> Row | str:
        messages = row.columns.get(self.texts["messages"])
        if not isinstance(messages, list) or not messages:
            return f"{self.texts['messages']} is not a list of messages"
        clean = []
        for message in messages:
            if not isinstance(message, dict) or message.get("role") not in ROLES or not isinstance(message.get("content"), str):
                return f"a message needs a role ({', '.join(ROLES)}) and a text as content"
            clean.append({"role": message["role"], "content": message["content"]})
        if clean[-1]["role"] != "assistant":
            return "the last message is not the assistant's"
        label = row.columns.get(self.label) if self.label else ""
        if self.label and (label is None or not _text(label).strip()):
            return f"no value for {self.label}"
        content = "\n".join(m["content"] for m in clean if m["role"] != "assistant")
        return Row({"messages": json.dumps(clean, ensure_ascii=False)}, _text(label), content)


def columns_in(text: str) -> list[str]:
    return [m[1] for m in _SLOT.finditer(text) if m[1] is not None]


def fill(text: str, columns: dict[str, Any]) -> str:
    return _SLOT.sub(lambda m: m[0][0] if m[1] is None else _text(columns[m[1]]), text)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


READERS = {".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
LONGEST_VALUE = 1 << 26
"""Characters of a CSV value: a quote that is never closed must not take all memory."""
