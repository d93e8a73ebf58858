"""Data files of a folder or a hub's repository: all of them, or those of a subset and a split.

The card's list of configurations says which, and without one their paths.
https://huggingface.co/docs/hub/datasets-manual-configuration
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from olivebuild.core.errors import InputError
from olivebuild.data.readers import kind_of

NO_DATA = ("dataset_infos.json", "dataset_info.json")
TEST_NAMES = ("test", "validation", "valid", "val", "dev", "eval")
"""Names of splits that are not trained on, the likeliest to test with first."""


def data_files_in(folder: Path) -> list[Path]:
    """Return all data files of a folder, in the order of their paths."""
    return sorted(p for p in folder.rglob("*") if _is_data(p, folder))


def _is_data(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return bool(kind_of(path)) and not hidden and path.name not in NO_DATA


def of_train(files: list[Path], folder: Path, say: Callable[[str], None]) -> list[Path]:
    """Return the files with `train` in their paths, which is said; all where none has it."""
    train = [p for p in files if "train" in p.relative_to(folder).as_posix()]
    if train and len(train) < len(files):
        left = [p.relative_to(folder).as_posix() for p in files if p not in train]
        say(
            f"{len(train)} of {len(files)} files of the folder are read, those named train; not "
            f"{', '.join(left[:5])}"
        )
    return train or files


def chosen(folder: Path, subset: str | None, split: str | None) -> list[Path]:
    """Return the data files of a subset and a split. Raises InputError where there is none."""
    files = data_files_in(folder)
    named = _of_card(folder, files, subset, split or "train")
    if named is not None:
        return _some(named, files, folder, subset, split)
    if subset is not None:
        files = _of_subset(files, folder, subset)
    if split is not None:
        files = _of_split(files, folder, split)
    return _some(files, data_files_in(folder), folder, subset, split)


def _some(
    files: list[Path], others: Sequence[Path], folder: Path, subset: str | None, split: str | None
) -> list[Path]:
    """Return the chosen files; raises InputError where there is none."""
    if files:
        return files
    which = " and ".join(
        f"{name} {value!r}"
        for name, value in (("subset", subset), ("split", split))
        if value is not None
    )
    names = [p.relative_to(folder).as_posix() for p in others]
    raise InputError(
        f"no data file belongs to {which}", hint=f"the files are {', '.join(names[:8])}"
    )


def subsets_of(folder: Path) -> list[str]:
    """Return the names of the card's configurations; none where it has no list of them."""
    return [str(c.get("config_name", "default")) for c in _configurations(folder / "README.md")]


def splits_of(folder: Path, subset: str | None) -> list[str]:
    """Return the splits of a folder, `train` first; without any, only that.

    The card names them, or else the paths of files do.
    """
    names = list(_splits_of_card(folder, subset))
    if not names:
        files = data_files_in(folder)
        files = files if subset is None else _of_subset(files, folder, subset)
        paths = [p.relative_to(folder).as_posix() for p in files]
        names = [name for name in TEST_NAMES if any(_word(name).search(path) for path in paths)]
    return ["train", *(name for name in dict.fromkeys(names) if name != "train")]


def _splits_of_card(folder: Path, subset: str | None) -> Iterator[str]:
    for config in _configurations(folder / "README.md"):
        entries = config.get("data_files")
        if config.get("config_name", "default") == (subset or "default") and entries:
            for entry in entries if isinstance(entries, list) else []:
                if isinstance(entry, dict) and isinstance(entry.get("split"), str):
                    yield entry["split"]


def _of_card(folder: Path, files: list[Path], subset: str | None, split: str) -> list[Path] | None:
    """Return the files that the card (README.md) names for a subset and a split.

    None where the card has no list of configurations, or not this one.
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
    except (yaml.YAMLError, ValueError, RecursionError):
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
    word = _word(split)
    named = [p for p in files if word.search(p.relative_to(folder).as_posix())]
    if named or split != "train":
        return named
    other = _word("|".join(TEST_NAMES), pattern=True)
    return [p for p in files if not other.search(p.relative_to(folder).as_posix())]


def _word(name: str, *, pattern: bool = False) -> re.Pattern[str]:
    """Return the pattern of a split's name as a word of a path."""
    text = name if pattern else re.escape(name)
    return re.compile(rf"(?:^|[-._ 0-9/])(?:{text})(?:[-._ 0-9/]|$)")
