"""Rows -> train and test, rendered by templates, without duplicates, near-duplicates on one side of the split."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from olivebuild import digest
from olivebuild.errors import InputError
from olivebuild.sources import Source
from olivebuild.step import Fields, FileInput, Result, Step
from olivebuild.worker import Job

if TYPE_CHECKING:
    from olivebuild.steps._rows import Row

FORMATS = (("prompt", "completion"), ("user", "assistant"), ("messages",), ("text",))
MAX_LABELS = 100


class DatasetFields(Fields):
    source: Source | list[Source]
    test: Source | list[Source] | None = None
    prompt: str | None = None
    completion: str | None = None
    user: str | None = None
    assistant: str | None = None
    messages: str | None = None
    text: str | None = None
    label: str | None = None
    holdout: Annotated[float, Field(ge=0, le=1)] = 0.2
    seed: int = 0
    dedupe: bool = True


class Dataset(Step):
    kind = "dataset"
    version = 2
    fields = DatasetFields
    summary = "rows from json, jsonl, csv or parquet, rendered, deduplicated and split into .train and .test"

    def libraries(self, fields: DatasetFields) -> tuple[str, ...]:
        return ("pyarrow",)

    def outputs(self, fields: Fields) -> Mapping[str, str]:
        return {"": ".", "train": "train.parquet", "test": "test.parquet"}

    def source(self, fields: DatasetFields) -> Source | None:
        return fields.source if isinstance(fields.source, Source) and fields.source.remote else None

    def files(self, fields: DatasetFields) -> list[FileInput]:
        found = []
        for name in ("source", "test"):
            value = getattr(fields, name)
            many = value if isinstance(value, list) else [value] if value else []
            for i, source in enumerate(many):
                field = (name, i) if isinstance(value, list) else (name,)
                if source.scheme == "file":
                    found.append(FileInput(f"{name}.{i}", source.name, field))
        return found

    def check(self, fields: DatasetFields) -> str | None:
        given = [n for group in FORMATS for n in group if getattr(fields, n) is not None]
        if tuple(given) not in FORMATS:
            forms = "prompt and completion, user and assistant, messages, or text"
            return f"its rows need exactly one of {forms}, not {', '.join(given) or 'none'}; see `olivebuild schema`"
        many = fields.source if isinstance(fields.source, list) else [fields.source]
        tests = fields.test if isinstance(fields.test, list) else [fields.test] if fields.test else []
        if any(s.scheme in ("gguf", "pypi") for s in [*many, *tests]) or any(s.remote for s in tests):
            return "a dataset comes from files or from hf:ID; name json, jsonl, csv or parquet files"
        if isinstance(fields.source, list) and any(s.remote for s in many):
            return "hf:ID can't stand in a list; make a dataset of each"
        if fields.test is not None and "holdout" in fields.model_fields_set:
            return "`test` and `holdout` don't go together; the test rows come from one or the other"
        return None

    def run(self, job: Job) -> None:
        from olivebuild.steps import _rows, _split

        fields = job.fields(DatasetFields)
        template = _rows.Template.of(fields, job)
        read = _rows.read_all(job, fields, "source")
        rows, report = template.render(read, fields.dedupe)
        if fields.test is not None:
            train = rows
            test, test_report = template.render(_rows.read_all(job, fields, "test"), fields.dedupe)
            groups = _split.near_duplicate_groups([r.content for r in [*train, *test]])
            seen = set(groups[: len(train)])
            report |= {"test": test_report, "test_rows_near_a_train_row": sum(g in seen for g in groups[len(train) :])}
        else:
            groups = _split.near_duplicate_groups([r.content for r in rows])
            sides = _split.sides(groups, fields.seed, fields.holdout)
            train = [r for r, held in zip(rows, sides, strict=True) if not held]
            test = [r for r, held in zip(rows, sides, strict=True) if held]
            report["near_duplicate_groups"] = len(set(groups))
        if not train and fields.holdout < 1:
            raise InputError("no row is left to train on", where=job.where("source"), hint=_why_empty(report))
        if not train and not test:
            raise InputError("no row is left", where=job.where("source"), hint=_why_empty(report))
        labels = _labels([*train, *test])
        report |= {"train": _count(train), "test_split": _count(test), "labels": [name for name, _ in labels]}
        silent = sorted({r.label for r in train} - {r.label for r in test} - {""})
        if test and silent:
            job.note(f"no test row has the label {', '.join(silent)}")
        _write(job.out / "train.parquet", train, template.format, [])
        _write(job.out / "test.parquet", test, template.format, labels)
        (job.out / "report.json").write_text(json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")
        # The digests are of the rows: another version of the parquet writer is no reason to train again.
        digests = {
            "train": digest.of_json(["rows", template.format, [[r.values, r.label] for r in train]]),
            "test": digest.of_json(["rows", template.format, [[r.values, r.label] for r in test], labels]),
        }
        job.note(f"{report['read']} rows read, {len(train)} to train, {len(test)} to test, {report['duplicates']} duplicates dropped")
        job.result = Result(
            digests=digests, metrics={k: report[k] for k in ("read", "duplicates", "dropped")} | {"train": len(train), "test": len(test)}
        )


def _why_empty(report: Mapping[str, object]) -> str:
    return f"{report['read']} rows read, {report['duplicates']} duplicates and {report['dropped']} incomplete rows dropped"


def _count(rows: list[Row]) -> dict[str, object]:
    return {"rows": len(rows), "by_label": dict(sorted(Counter(r.label for r in rows).items()))}


def _labels(rows: list[Row]) -> list[tuple[str, str]]:
    """(label, completion) pairs when each label has one completion: then a model can be asked which is likeliest."""
    pairs = sorted({(r.label, r.values.get("completion") or r.values.get("assistant") or "") for r in rows})
    unambiguous = len({label for label, _ in pairs}) == len(pairs) <= MAX_LABELS
    return pairs if unambiguous and all(label and text for label, text in pairs) else []


def _write(path: Path, rows: list[Row], format_: str, labels: list[tuple[str, str]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [*next(f for f in FORMATS if f[0] == format_), "label"]
    columns = {name: [r.values.get(name, "") if name != "label" else r.label for r in rows] for name in names}
    schema = pa.schema([(name, pa.string()) for name in names], metadata={"format": format_, "labels": json.dumps(labels)})
    pq.write_table(pa.table(columns, schema=schema), path, compression="zstd")


STEP = Dataset()
