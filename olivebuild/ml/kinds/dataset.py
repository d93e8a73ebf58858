"""Data sets: rows read, rendered, checked, divided and written."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from olivebuild.api.job import Job
from olivebuild.api.step import Result
from olivebuild.core import hashing
from olivebuild.core.errors import InputError
from olivebuild.data import drops
from olivebuild.data.drops import told
from olivebuild.data.templates import columns_in
from olivebuild.steps.dataset import FORMATS, DatasetFields

if TYPE_CHECKING:
    from olivebuild.data.split import Likeness
    from olivebuild.ml.data.rows import Row, Template


MAX_LABELS = 100


LIKE_MISSING = {"nan", "na", "n/a", "#n/a", "none", "null", "nat", "<na>"}


def run(job: Job) -> None:
    """Make the artifact in `job.out`."""
    from olivebuild.data import origins
    from olivebuild.ml.data import rows as _rows

    fields = job.fields(DatasetFields)
    template = _rows.Template.of(fields, job)
    report: dict[str, Any] = {}
    try:
        made = _make(job, fields, template, report)
    except InputError as e:
        if place := drops.keep(job.log, job.action.recipe_folder, report):
            e.hint += f"; the whole report: {place}"
        raise
    drops.forget(job.log)
    train, test, labels = made
    _write(job.out / "train.parquet", train, template.format, [], [*train, *test])
    _write(job.out / "test.parquet", test, template.format, labels, [*train, *test])
    (job.out / "report.json").write_text(drops.as_text(report), "utf-8")
    # The digests are of the rows: another version of the parquet writer is no reason to train
    # again, nor is a row that moved.
    digests = {
        "": _digest_of_files(job.out),
        "train": hashing.of_json(["rows", template.format, [[r.values, r.label] for r in train]]),
        "test": hashing.of_json(
            ["rows", template.format, [[r.values, r.label] for r in test], labels]
        ),
    }
    job.note(
        f"{report['read']} rows read, {len(train)} to train, {len(test)} to test, "
        f"{report['duplicates']} duplicates dropped"
    )
    metrics = {k: report[k] for k in ("read", "duplicates", "dropped")} | {
        "train": len(train),
        "test": len(test),
    }
    dropped: dict[str, Any] = {
        name: found["drops"]
        for name, found in (("drops", report), ("test_drops", report.get("test")))
        if found and found["drops"]
    }
    dropped |= {"test_read": report["test"]["read"]} if "test_drops" in dropped else {}
    origins.write(
        job.out,
        {"train": [r.origin for r in train], "test": [r.origin for r in test]},
        fields.max_dropped,
    )
    job.result = Result(digests=digests, metrics=metrics | dropped)


def _make(
    job: Job, fields: DatasetFields, template: Template, report: dict[str, Any]
) -> tuple[list[Row], list[Row], list[tuple[str, str]]]:
    """The rows to train and to test, and the labels. `report` is filled as things become known."""
    from olivebuild.ml.data import rows as _rows

    rows, found = template.render(_rows.read_all(job, fields, "source"), fields.dedupe)
    report |= found
    asked = columns_in(next(iter(template.texts.values())))
    _tell_drops(job, fields, found, "", asked)
    if fields.test is not None:
        train = rows
        test, found = template.render(_rows.read_all(job, fields, "test"), fields.dedupe)
        report["test"] = found
        _tell_drops(job, fields, found, "of `test`: ", asked)
        _compare(job, fields, train, test, report)
        if not test:
            raise InputError(
                "no row is left to test on", where=job.where("test"), hint=_why_empty(found)
            )
    else:
        train, test = _divide(job, fields, rows, report)
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
    silent = sorted({r.label for r in train} - {r.label for r in test} - {""})
    if test and silent:
        job.note(f"no test row has the label {_some(silent)}")
    counts = Counter(r.label for r in [*train, *test])
    if odd := [
        f"{name!r} ({counts[name]} rows)"
        for name in sorted(counts)
        if name.strip().casefold() in LIKE_MISSING
    ]:
        job.note(f"labels that programs write where a value is missing: {', '.join(odd)}")
    for alike in look_alikes(counts):
        job.note(
            "labels that look alike: "
            f"{', '.join(f'{ascii_marked(name)} ({counts[name]} rows)' for name in alike)}"
        )
    return train, test, labels


def _tell_drops(
    job: Job, fields: DatasetFields, report: Mapping[str, Any], which: str, asked: Sequence[str]
) -> None:
    """Say what was dropped; `asked` are the columns of the prompt.

    Raises InputError when that is too much for what is wrong with rows.
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
        if any(d["why"] == f"no value for {name}" for d in faulty for name in asked):
            hint = "a column that may be empty is written {name?}; else " + hint
        raise InputError(which + text, where=faulty[0]["first"], hint=hint)
    if text:
        job.note(which + text)


def _compare(
    job: Job, fields: DatasetFields, train: list[Row], test: list[Row], report: dict[str, Any]
) -> None:
    """Find the test rows that are rows of train or near one.

    Raises InputError if that may not be.
    """
    found = _groups(job, fields, [*train, *test])
    groups = found.groups
    seen, letters = set(groups[: len(train)]), {json.dumps(r.values, sort_keys=True) for r in train}
    near = sum(g in seen for g in groups[len(train) :])
    same = sum(json.dumps(r.values, sort_keys=True) in letters for r in test)
    report |= {"test_rows_near_a_train_row": near, "test_rows_in_train": same}
    if near:
        text = f"{near} of {len(test)} test rows are near a row of train" + (
            f", {same} of them to the letter" if same else ""
        )
        if fields.strict:
            hint = "take them out of one of the files, or leave `strict` out to be told only"
            raise InputError(text, where=job.where("test"), hint=hint)
        job.note(f"{text}: what is measured on them says little")


def _groups(job: Job, fields: DatasetFields, rows: list[Row]) -> Likeness:
    from olivebuild.data import split

    found = split.likeness(
        [r.content for r in rows], [r.group for r in rows], near=fields.near_duplicates
    )
    for text, count in sorted(found.shared.items(), key=lambda item: -item[1])[:3]:
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
    return found


def _divide(
    job: Job, fields: DatasetFields, rows: list[Row], report: dict[str, Any]
) -> tuple[list[Row], list[Row]]:
    """The rows to train and to test.

    Raises InputError when a side that should have some can have none.
    """
    from olivebuild.data import split

    groups = _groups(job, fields, rows).groups
    sizes = Counter(groups)
    largest = max(sizes.values(), default=0)
    report |= {"near_duplicate_groups": len(sizes), "largest_group": largest}
    held = split.sides(groups, fields.seed, fields.holdout)
    if rows and 0 < fields.holdout < 1 and len(set(held)) == 1:
        moved = split.nearest(groups, fields.seed, test=not held[0])
        if moved is None:
            raise _undivided(job, fields, sizes, len(rows))
        held = [g == moved if not held[0] else g != moved for g in groups]
        side, rest = ("test", "hold out") if sizes[moved] == sum(held) else ("train", "train on")
        job.note(
            f"none of the {len(sizes)} groups fell to {side} by chance: the one nearest to it "
            f"does ({sizes[moved]} rows to {rest})"
        )
    elif (
        len(rows) >= 20
        and 0 < fields.holdout < 1
        and abs(sum(held) / len(rows) - fields.holdout) > 0.1
    ):
        text = f"{sum(held)} of {len(rows)} rows are held out where holdout is {fields.holdout:g}"
        job.note(
            f"{text}: they are in {len(sizes)} groups, the largest of {largest} rows, and a group "
            "stays on one side"
        )
    return [r for r, out in zip(rows, held, strict=True) if not out], [
        r for r, out in zip(rows, held, strict=True) if out
    ]


def _undivided(job: Job, fields: DatasetFields, sizes: Counter[str], count: int) -> InputError:
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
    other = ["`near_duplicates: false`"] if fields.near_duplicates and count > 1 else []
    other += (
        ["`group_by: COLUMN` with it, to keep together what belongs together"]
        if other and fields.group_by is None
        else []
    )
    other += ["rows of their own to test (`test: FILE`)", "`holdout: 0`, to test on none"]
    return InputError(
        f"no row is {side} with holdout {fields.holdout:g}: {alone}",
        where=job.where("holdout"),
        hint=f"set {', or '.join(other)}",
    )


def _all_train(sizes: Counter[str], fields: DatasetFields) -> bool:
    from olivebuild.data import split

    return not any(split.sides(list(sizes), fields.seed, fields.holdout))


def look_alikes(labels: Iterable[str]) -> list[list[str]]:
    """Labels that differ in space, case or Unicode form alone; none where there are too many labels
    for a closed set.
    """
    names = sorted(set(labels) - {""})
    alike: dict[str, list[str]] = {}
    for name in names if len(names) <= MAX_LABELS else ():
        plain = "".join(
            c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf"
        )
        alike.setdefault(
            " ".join(unicodedata.normalize("NFKC", plain.casefold()).split()), []
        ).append(name)
    return [found for found in alike.values() if len(found) > 1]


def ascii_marked(name: str) -> str:
    """A label between quotes, with what can't be told by looking at it written out."""
    return (
        repr(name)
        if name.isascii() or (unicodedata.is_normalized("NFKC", name) and name.isprintable())
        else ascii(name)
    )


def _digest_of_files(folder: Path) -> str:
    """The digest of the folder without the rows' origins, which say nothing of what the rows
    are.
    """
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
    """(label, completion) pairs when each label has one completion: then a model can be asked which
    is likeliest.
    """
    pairs = sorted(
        {(r.label, r.values.get("completion") or r.values.get("assistant") or "") for r in rows}
    )
    unambiguous = len({label for label, _ in pairs}) == len(pairs) <= MAX_LABELS
    return pairs if unambiguous and all(label and text for label, text in pairs) else []


def _write(
    path: Path, rows: list[Row], format_: str, labels: list[tuple[str, str]], all_rows: list[Row]
) -> None:
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
