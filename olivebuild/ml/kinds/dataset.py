"""Data sets: rows read, rendered, checked, divided and written."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from olivebuild.api.job import Job
from olivebuild.api.step import Result
from olivebuild.core import hashing
from olivebuild.core.errors import InputError
from olivebuild.data import drops, origins, split
from olivebuild.data.drops import told
from olivebuild.data.templates import columns_in
from olivebuild.ml.data.rows import Row, Template, read_all
from olivebuild.steps.dataset import FORMATS, DatasetFields

MAX_LABELS = 100
"""The most labels of a closed set."""
LIKE_MISSING = {"nan", "na", "n/a", "#n/a", "none", "null", "nat", "<na>"}
"""Labels, in lower case, that programs write where a value is missing."""
MIN_ROWS, MAX_DEVIATION = 20, 0.1
"""From this many rows on, a larger deviation of the held-out share is reported."""


def run(job: Job) -> None:
    """Make the artifact in `job.out`."""
    fields = job.fields(DatasetFields)
    template = Template.of(fields, job)
    report: dict[str, Any] = {}
    try:
        train, test, labels = _make(job, fields, template, report)
    except InputError as e:
        if place := drops.keep(job.log, job.action.recipe_folder, report):
            e.hint += f"; the whole report: {place}"
        raise
    drops.forget(job.log)
    _write(job.out / "train.parquet", train, template.format, [], [*train, *test])
    _write(job.out / "test.parquet", test, template.format, labels, [*train, *test])
    (job.out / "report.json").write_text(drops.as_text(report), "utf-8")
    job.note(
        f"{report['read']} rows read, {len(train)} to train, {len(test)} to test, "
        f"{report['duplicates']} duplicates dropped"
    )
    metrics = {k: report[k] for k in ("read", "duplicates", "dropped")}
    metrics |= {"train": len(train), "test": len(test), **_drops(report)}
    origins.write(
        job.out,
        {"train": [r.origin for r in train], "test": [r.origin for r in test]},
        fields.max_dropped,
    )
    # The digests are of the rows: another version of the parquet writer is no reason to train
    # again, nor is a row that moved.
    train_values = [[r.values, r.label] for r in train]
    test_values = [[r.values, r.label] for r in test]
    digests = {
        "": _digest_of_files(job.out),
        "train": hashing.of_json(["rows", template.format, train_values]),
        "test": hashing.of_json(["rows", template.format, test_values, labels]),
    }
    job.result = Result(digests=digests, metrics=metrics)


def _drops(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of dropped rows, of those to test apart."""
    dropped = {"drops": report["drops"]} if report["drops"] else {}
    of_test = report.get("test")
    if of_test and of_test["drops"]:
        dropped |= {"test_drops": of_test["drops"], "test_read": of_test["read"]}
    return dropped


def _make(
    job: Job, fields: DatasetFields, template: Template, report: dict[str, Any]
) -> tuple[list[Row], list[Row], list[tuple[str, str]]]:
    """Return the rows to train and to test, and the labels. Fill `report` on the way.

    Raises InputError when too many rows are dropped, or none is left for a side.
    """
    train, counts = template.render(read_all(job, fields, "source"), fields.dedupe)
    report |= counts
    columns = columns_in(next(iter(template.texts.values())))
    _note_drops(job, fields, counts, "", columns)
    if fields.test is not None:
        test = _read_test(job, fields, template, columns, report)
        _compare(job, fields, train, test, report)
        if not test:
            raise InputError(
                "no row is left to test on",
                where=job.where("test"),
                hint=_why_empty(report["test"]),
            )
    else:
        train, test = _divide(job, fields, train, report)
    if not train and (fields.holdout < 1 or not test):
        raise InputError(
            "no row is left to train on" if test else "no row is left",
            where=job.where("source"),
            hint=_why_empty(report),
        )
    labels = _labels([*train, *test])
    report |= {
        "train": _count(train),
        "test_split": _count(test),
        "labels": [name for name, _ in labels],
    }
    _note_labels(job, train, test)
    return train, test, labels


def _read_test(
    job: Job,
    fields: DatasetFields,
    template: Template,
    columns: Sequence[str],
    report: dict[str, Any],
) -> list[Row]:
    """Return the rows of `test`, and add their counts to `report`."""
    test, counts = template.render(read_all(job, fields, "test"), fields.dedupe)
    report["test"] = counts
    _note_drops(job, fields, counts, "of `test`: ", columns)
    return test


def _note_labels(job: Job, train: list[Row], test: list[Row]) -> None:
    """Report labels without a test row, and labels that may be mistakes."""
    untested = sorted({r.label for r in train} - {r.label for r in test} - {""})
    if test and untested:
        job.note(f"no test row has the label {_some(untested)}")
    counts = Counter(r.label for r in [*train, *test])
    missing = [name for name in sorted(counts) if name.strip().casefold() in LIKE_MISSING]
    if missing:
        names = ", ".join(f"{name!r} ({counts[name]} rows)" for name in missing)
        job.note(f"labels that programs write where a value is missing: {names}")
    for alike in look_alikes(counts):
        names = ", ".join(f"{ascii_marked(name)} ({counts[name]} rows)" for name in alike)
        job.note(f"labels that look alike: {names}")


def _note_drops(
    job: Job, fields: DatasetFields, report: Mapping[str, Any], prefix: str, columns: Sequence[str]
) -> None:
    """Report dropped rows; `columns` are those of the prompt.

    Raises InputError when more rows have a fault than `max_dropped` allows.
    """
    text = told(report)
    faulty = [d for d in report["drops"] if d["fault"]]
    count = sum(d["count"] for d in faulty)
    if count > fields.max_dropped * report["read"]:
        share = -(-count * 100 // report["read"]) / 100
        hint = (
            f"mend the rows; or, if they may go, `max_dropped: {share:g}` says so (it is "
            f"{fields.max_dropped:g})"
        )
        if count == report["read"]:
            hint = "mend the rows: none is left"
        if any(d["why"] == f"no value for {name}" for d in faulty for name in columns):
            hint = "a column that may be empty is written {name?}; else " + hint
        raise InputError(prefix + text, where=faulty[0]["first"], hint=hint)
    if text:
        job.note(prefix + text)


def _compare(
    job: Job, fields: DatasetFields, train: list[Row], test: list[Row], report: dict[str, Any]
) -> None:
    """Report the test rows that are rows of train or near one.

    Raises InputError for them where `strict` is set.
    """
    groups = _groups(job, fields, [*train, *test]).groups
    train_groups = set(groups[: len(train)])
    train_values = {json.dumps(r.values, sort_keys=True) for r in train}
    near = sum(g in train_groups for g in groups[len(train) :])
    same = sum(json.dumps(r.values, sort_keys=True) in train_values for r in test)
    report |= {"test_rows_near_a_train_row": near, "test_rows_in_train": same}
    if near:
        text = f"{near} of {len(test)} test rows are near a row of train" + (
            f", {same} of them to the letter" if same else ""
        )
        if fields.strict:
            hint = "take them out of one of the files, or leave `strict` out to be told only"
            raise InputError(text, where=job.where("test"), hint=hint)
        job.note(f"{text}: what is measured on them says little")


def _groups(job: Job, fields: DatasetFields, rows: list[Row]) -> split.Likeness:
    """Return the groups of rows that stay on one side; report what limits them."""
    likeness = split.likeness(
        [r.content for r in rows], [r.group for r in rows], near=fields.near_duplicates
    )
    for text, count in sorted(likeness.shared.items(), key=lambda item: -item[1])[:3]:
        short = text if len(text) <= 60 else text[:57] + "..."
        job.note(
            f"{count} of {len(rows)} rows share this text, which is not compared for likeness: "
            f"{short}"
        )
    if fields.group_by is not None and (without := sum(not r.group for r in rows)):
        job.note(
            f"{without} of {len(rows)} rows have no value for {fields.group_by}: each of them "
            "stands alone"
        )
    return likeness


def _divide(
    job: Job, fields: DatasetFields, rows: list[Row], report: dict[str, Any]
) -> tuple[list[Row], list[Row]]:
    """Return the rows to train and to test.

    Raises InputError when a side that should have some can have none.
    """
    groups = _groups(job, fields, rows).groups
    sizes = Counter(groups)
    largest = max(sizes.values(), default=0)
    report |= {"near_duplicate_groups": len(sizes), "largest_group": largest}
    held = split.sides(groups, fields.seed, fields.holdout)
    if rows and 0 < fields.holdout < 1:
        if len(set(held)) == 1:
            held = _move_one_group(job, fields, groups, held)
        elif len(rows) >= MIN_ROWS and _deviates(held, fields.holdout):
            job.note(
                f"{sum(held)} of {len(rows)} rows are held out where holdout is "
                f"{fields.holdout:g}: they are in {len(sizes)} groups, the largest of {largest} "
                "rows, and a group stays on one side"
            )
    train = [r for r, out in zip(rows, held, strict=True) if not out]
    test = [r for r, out in zip(rows, held, strict=True) if out]
    return train, test


def _deviates(held: list[bool], holdout: float) -> bool:
    return abs(sum(held) / len(held) - holdout) > MAX_DEVIATION


def _move_one_group(
    job: Job, fields: DatasetFields, groups: list[str], held: list[bool]
) -> list[bool]:
    """Return `held`, in which all groups are on one side, with one group on the other.

    Raises InputError when there is only one group.
    """
    sizes = Counter(groups)
    moved = split.nearest(groups, fields.seed, test=not held[0])
    if moved is None:
        raise _undivided(job, fields, sizes, len(groups))
    held = [g == moved if not held[0] else g != moved for g in groups]
    side, rest = ("test", "hold out") if sizes[moved] == sum(held) else ("train", "train on")
    job.note(
        f"none of the {len(sizes)} groups fell to {side} by chance: the one nearest to it "
        f"does ({sizes[moved]} rows to {rest})"
    )
    return held


def _undivided(job: Job, fields: DatasetFields, sizes: Counter[str], count: int) -> InputError:
    """Return the error of rows that stay together, with the fields that would part them."""
    side = "held out" if _all_train(sizes, fields) else "left to train on"
    of = (
        f"the {count} rows are one group"
        if len(sizes) == 1
        else f"of {len(sizes)} groups one has {max(sizes.values())} of the {count} rows"
    )
    why = (
        f" of equal {fields.group_by}"
        if fields.group_by is not None
        else " of near-duplicates"
        if fields.near_duplicates
        else ""
    )
    alone = "one row can't be parted" if count == 1 else f"{of}{why}, which stays on one side"
    settings = []
    if fields.near_duplicates and count > 1:
        settings.append("`near_duplicates: false`")
        if fields.group_by is None:
            settings.append("`group_by: COLUMN` with it, to keep together what belongs together")
    settings += ["rows of their own to test (`test: FILE`)", "`holdout: 0`, to test on none"]
    return InputError(
        f"no row is {side} with holdout {fields.holdout:g}: {alone}",
        where=job.where("holdout"),
        hint=f"set {', or '.join(settings)}",
    )


def _all_train(sizes: Counter[str], fields: DatasetFields) -> bool:
    return not any(split.sides(list(sizes), fields.seed, fields.holdout))


def look_alikes(labels: Iterable[str]) -> list[list[str]]:
    """Return groups of labels that differ in space, case or Unicode form alone.

    There are none where there are too many labels for a closed set.
    """
    names = sorted(set(labels) - {""})
    if len(names) > MAX_LABELS:
        return []
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(_folded(name), []).append(name)
    return [group for group in alike.values() if len(group) > 1]


def _folded(name: str) -> str:
    """Return a label without case, extra space, invisible characters and Unicode form."""
    composed = unicodedata.normalize("NFKC", name)
    visible = "".join(c for c in composed if unicodedata.category(c) != "Cf")
    return " ".join(unicodedata.normalize("NFKC", visible.casefold()).split())


def ascii_marked(name: str) -> str:
    """Return a label between quotes; ambiguous and invisible characters are escaped."""
    if name.isascii() or (unicodedata.is_normalized("NFKC", name) and name.isprintable()):
        return repr(name)
    return ascii(name)


def _digest_of_files(folder: Path) -> str:
    """Return the digest of the folder without the rows' origins, which do not change the rows."""
    files = [folder / name for name in ("report.json", "test.parquet", "train.parquet")]
    return hashing.of_json([[p.name, False, p.stat().st_size, hashing.of_file(p)] for p in files])


def _some(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _why_empty(report: Mapping[str, Any]) -> str:
    counts = (
        f"{report['read']} rows read, {report['duplicates']} duplicates and {report['dropped']} "
        "incomplete rows dropped"
    )
    return f"{counts}; {told(report)}" if report["drops"] else counts


def _count(rows: list[Row]) -> dict[str, object]:
    return {"rows": len(rows), "by_label": dict(sorted(Counter(r.label for r in rows).items()))}


def _labels(rows: list[Row]) -> list[tuple[str, str]]:
    """Return pairs of label and completion when each label has one completion; else none.

    A model can then be asked which is likeliest.
    """
    pairs = sorted(
        {(r.label, r.values.get("completion") or r.values.get("assistant") or "") for r in rows}
    )
    unambiguous = len({label for label, _ in pairs}) == len(pairs) <= MAX_LABELS
    return pairs if unambiguous and all(label and text for label, text in pairs) else []


def _write(
    path: Path, rows: list[Row], format_: str, labels: list[tuple[str, str]], all_rows: list[Row]
) -> None:
    """Write rows as Parquet; all files of a data set have the columns of `all_rows`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [*next(f for f in FORMATS if f[0] == format_), "label"]
    names += ["tools"] if any("tools" in r.values for r in all_rows) else []
    columns = {
        name: [r.values.get(name, "") if name != "label" else r.label for r in rows]
        for name in names
    }
    schema = pa.schema(
        [(name, pa.string()) for name in names],
        metadata={"format": format_, "labels": json.dumps(labels)},
    )
    pq.write_table(pa.table(columns, schema=schema), path, compression="zstd")
