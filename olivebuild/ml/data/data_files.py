"""Data files of a folder or a hub's repository: all of them, or those of a subset and a split."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from olivebuild.api.job import Job
from olivebuild.core.errors import InputError
from olivebuild.data.readers import READERS, kind_of
from olivebuild.steps.dataset import DatasetFields

NO_DATA = ("dataset_infos.json", "dataset_info.json")


def data_files(folder: Path, job: Job, fields: DatasetFields) -> list[Path]:
    """Return the data files of a folder; where some have `train` in their names, those only.

    With `subset` or `split` those that the folder's card or, without one, their paths name.
    """
    files = sorted(p for p in folder.rglob("*") if _is_data(p, folder))
    if not files:
        raise InputError(
            "there are no data files in this folder",
            where=job.where("source"),
            hint=f"read are {', '.join(READERS)}",
        )
    if fields.subset is None and fields.split is None:
        return _of_train(files, folder, job)
    named = _of_card(folder, files, fields.subset, fields.split or "train")
    if named is not None:
        return _some(named, files, folder, job, fields)
    if fields.subset is not None:
        files = _of_subset(files, folder, fields.subset)
    if fields.split is not None:
        files = _of_split(files, folder, fields.split)
    return _some(files, sorted(folder.rglob("*")), folder, job, fields)


def _is_data(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return bool(kind_of(path)) and not hidden and path.name not in NO_DATA


def _of_train(files: list[Path], folder: Path, job: Job) -> list[Path]:
    train = [p for p in files if "train" in p.relative_to(folder).as_posix()]
    if train and len(train) < len(files):
        left = [p.relative_to(folder).as_posix() for p in files if p not in train]
        job.note(
            f"{len(train)} of {len(files)} files of the folder are read, those named train; not "
            f"{', '.join(left[:5])}"
        )
    return train or files


def _some(
    chosen: list[Path], files: Sequence[Path], folder: Path, job: Job, fields: DatasetFields
) -> list[Path]:
    """Return the chosen files; raises InputError where there is none."""
    if chosen:
        return chosen
    which = " and ".join(
        f"{name} {value!r}"
        for name, value in (("subset", fields.subset), ("split", fields.split))
        if value is not None
    )
    names = [p.relative_to(folder).as_posix() for p in files if _is_data(p, folder)]
    raise InputError(
        f"no data file belongs to {which}",
        where=job.where("split" if fields.split is not None else "subset"),
        hint=f"the files are {', '.join(names[:8])}",
    )


def _of_card(folder: Path, files: list[Path], subset: str | None, split: str) -> list[Path] | None:
    """Return the files that the card (README.md) names for a subset and a split.

    None where the card has no list of configurations, or not this one.
    https://huggingface.co/docs/hub/datasets-manual-configuration
    """
    for config in _configurations(folder / "README.md"):
        if config.get("config_name", "default") != (subset or "default"):
            continue
        patterns = _patterns(config.get("data_files"), split)
        if patterns is None:
            return None
        base = str(config.get("data_dir") or "")
        return [
            p
            for p in files
            if any(_matches(p.relative_to(folder), base, pattern) for pattern in patterns)
        ]
    return None


def _configurations(card: Path) -> list[dict[str, Any]]:
    import yaml

    try:
        text = card.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    m = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    try:
        head = yaml.safe_load(m[1]) if m else None
    except yaml.YAMLError:
        return []
    configs = head.get("configs") if isinstance(head, dict) else None
    return [c for c in configs if isinstance(c, dict)] if isinstance(configs, list) else []


def _patterns(value: object, split: str) -> list[str] | None:
    """Return the patterns of a split in a configuration's `data_files`.

    All are `train` where none is named.
    """
    if isinstance(value, str):
        return [value] if split == "train" else []
    if not isinstance(value, list):
        return None
    patterns: list[str] = []
    for entry in value:
        if isinstance(entry, str) and split == "train":
            patterns.append(entry)
        if isinstance(entry, dict) and entry.get("split") == split:
            path = entry.get("path")
            patterns += [path] if isinstance(path, str) else [str(p) for p in path or []]
    return patterns


def _matches(path: Path, base: str, pattern: str) -> bool:
    """Return whether a path below the folder is the pattern's; `**` stands for folders."""
    whole = PurePosixPath(base, pattern).as_posix().removeprefix("./")
    regex = "".join(
        {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part))
        for part in re.split(r"(\*\*/|\*\*|\*|\?)", whole)
    )
    return re.fullmatch(regex, path.as_posix()) is not None


def _of_subset(files: list[Path], folder: Path, subset: str) -> list[Path]:
    """Return the files in a folder of the subset's name."""
    return [p for p in files if subset in p.relative_to(folder).parts[:-1]]


def _of_split(files: list[Path], folder: Path, split: str) -> list[Path]:
    """Return the files in whose path the split's name is a word.

    All of them are `train` where no path has a split's name, as the `datasets` library has it.
    """
    word = re.compile(rf"(?:^|[-._ 0-9/]){re.escape(split)}(?:[-._ 0-9/]|$)")
    named = [p for p in files if word.search(p.relative_to(folder).as_posix())]
    if named or split != "train":
        return named
    other = re.compile(r"(?:^|[-._ 0-9/])(?:test|dev|val|valid|validation|eval)(?:[-._ 0-9/]|$)")
    return [p for p in files if not other.search(p.relative_to(folder).as_posix())]
