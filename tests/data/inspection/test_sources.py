"""A look at sources: files, patterns, folders with splits and subsets, what is guessed of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from olivebuild.core.errors import InputError
from olivebuild.data.inspection import sources
from tests.support import own_data

CARD = """---
configs:
- config_name: de
  data_files: "de/*.jsonl"
- config_name: fr
  data_files: "fr/*.jsonl"
---
"""


def rows_in(file: Path, count: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps({"a": n}) + "\n" for n in range(count)))


def test_a_file_of_a_spreadsheet(tmp_path: Path) -> None:
    look = sources.look(tmp_path, own_data.latin_csv(tmp_path))
    assert (len(look.rows), look.is_whole, look.files) == (144, True, ("export.csv",))
    assert look.rows[0]["Kategorie"] == "Störung"
    assert "Windows-1252" in look.notes[0]
    assert "semicolons" in look.notes[1]


def test_a_mark_of_the_byte_order_is_no_part_of_a_name(tmp_path: Path) -> None:
    look = sources.look(tmp_path, own_data.tickets_csv(tmp_path))
    assert list(look.rows[0]) == ["Nr", "Datum", "Beschreibung", "Kategorie", "Notiz"]
    assert "\n" in look.rows[0]["Beschreibung"]
    assert look.notes == ()


def test_rows_below_a_key(tmp_path: Path) -> None:
    look = sources.look(tmp_path, own_data.alpaca_json(tmp_path))
    assert set(look.rows[0]) == {"instruction", "input", "output"}


def test_splits_of_a_folder_are_kept(tmp_path: Path) -> None:
    look = sources.look(tmp_path, own_data.parquet_folder(tmp_path))
    assert (look.split, look.test_split) == ("train", "test")
    assert look.tests == ("data/test-00000-of-00001.parquet",)
    assert (len(look.rows), len(look.test_rows)) == (108, 36)
    assert look.notes == ("the split validation is not used",)


def test_a_folder_without_splits_is_read_whole(tmp_path: Path) -> None:
    rows_in(tmp_path / "rows/a.jsonl", 2)
    rows_in(tmp_path / "rows/b.jsonl", 3)
    look = sources.look(tmp_path, "rows")
    assert (len(look.rows), look.split, look.tests) == (5, None, ())


def test_of_a_folder_is_read_what_a_build_reads(tmp_path: Path) -> None:
    rows_in(tmp_path / "rows/training.jsonl", 2)
    rows_in(tmp_path / "rows/more.jsonl", 3)
    look = sources.look(tmp_path, "rows")
    assert (len(look.rows), look.notes) == (2, ("not read: more.jsonl",))


def test_a_pattern(tmp_path: Path) -> None:
    rows_in(tmp_path / "rows/a.jsonl", 2)
    rows_in(tmp_path / "rows/b.jsonl", 3)
    assert len(sources.look(tmp_path, "rows/*.jsonl").rows) == 5


def test_subsets_are_not_mixed(tmp_path: Path) -> None:
    rows_in(tmp_path / "all/de/a.jsonl", 2)
    rows_in(tmp_path / "all/fr/a.jsonl", 3)
    (tmp_path / "all/README.md").write_text(CARD)
    assert sources.subsets(tmp_path / "all") == ["de", "fr"]
    with pytest.raises(InputError, match="several subsets: de, fr") as caught:
        sources.look(tmp_path, "all")
    assert "--subset de" in caught.value.hint
    assert len(sources.look(tmp_path, "all", "fr").rows) == 3


def test_of_a_long_file_the_beginning_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MOST_ROWS", 4)
    rows_in(tmp_path / "four.jsonl", 4)
    rows_in(tmp_path / "five.jsonl", 5)
    assert sources.look(tmp_path, "four.jsonl").is_whole
    look = sources.look(tmp_path, "five.jsonl")
    assert (len(look.rows), look.is_whole) == (4, False)


@pytest.mark.parametrize(
    ("name", "fact", "hint"),
    [
        ("none.csv", "no such file", "hf:OWNER/NAME"),
        ("empty.jsonl", "there are no rows", "data file"),
        ("folder", "no data files", ".parquet"),
        ("text.docx", "files of type .docx are not read", ".csv"),
        ("table.xlsx", "a spreadsheet (.xlsx) is not read", "CSV"),
        ("broken.jsonl", "not valid JSON", "one JSON object"),
    ],
)
def test_what_can_not_be_read(tmp_path: Path, name: str, fact: str, hint: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "text.docx").write_text("x")
    (tmp_path / "broken.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(InputError) as caught:
        sources.look(tmp_path, name)
    assert fact in caught.value.fact
    assert hint in caught.value.hint
    assert name in str(caught.value.where)
