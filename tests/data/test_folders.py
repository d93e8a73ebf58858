"""Data files of folders: what is read, which splits there are, and which files belong to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.data import folders

CARD = """---
configs:
- config_name: german
  data_files:
  - {split: train, path: "de/train-*.parquet"}
  - {split: validation, path: "de/val*.parquet"}
- config_name: french
  data_files: "fr/*.parquet"
---
"""


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).touch()


def test_all_files_that_can_be_read_and_nothing_hidden(tmp_path: Path) -> None:
    names = ["a.csv", "b.TSV", "c.ndjson", "d.JSONL", "deep/e.parquet", "f.json"]
    make(tmp_path, *names, "readme.md", ".g.csv", ".ipynb_checkpoints/h.csv", "dataset_infos.json")
    assert [p.relative_to(tmp_path).as_posix() for p in folders.data_files_in(tmp_path)] == names


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["a.parquet", "b.parquet"], ["train"]),
        (
            [f"data/{s}-00000-of-00001.parquet" for s in ("train", "test", "validation")],
            ["train", "test", "validation"],
        ),
        (["train/a.csv", "dev/a.csv"], ["train", "dev"]),
        (["latest.csv", "developers.csv"], ["train"]),
    ],
)
def test_splits_by_paths(tmp_path: Path, names: list[str], splits: list[str]) -> None:
    make(tmp_path, *names)
    assert folders.splits_of(tmp_path, None) == splits


def test_splits_by_the_card(tmp_path: Path) -> None:
    make(tmp_path, "de/train-0.parquet", "de/val0.parquet", "fr/a.parquet")
    (tmp_path / "README.md").write_text(CARD)
    assert folders.subsets_of(tmp_path) == ["german", "french"]
    assert folders.splits_of(tmp_path, "german") == ["train", "validation"]
    assert folders.splits_of(tmp_path, "french") == ["train"]
    (file,) = folders.chosen(tmp_path, "german", "validation")
    assert file.name == "val0.parquet"
