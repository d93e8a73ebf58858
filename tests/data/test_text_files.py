"""Files of text as they are found: packed or not, in several encodings."""

from __future__ import annotations

import codecs
import gzip
from pathlib import Path

import pytest

from olivebuild.core.errors import InputError
from olivebuild.data.text_files import Text, encoding_of

GERMAN = "schöne Grüße\nund mehr\n"


def read(path: Path) -> tuple[str, str, list[str]]:
    notes: list[str] = []
    encoding = encoding_of(path, path.name, notes.append)
    with Text(path, path.name, encoding).open() as file:
        return file.read(), encoding, notes


@pytest.mark.parametrize(
    ("name", "data", "encoding"),
    [
        ("a.txt", GERMAN.encode(), "utf-8-sig"),
        ("a.txt", codecs.BOM_UTF8 + GERMAN.encode(), "utf-8-sig"),
        ("a.txt.gz", gzip.compress(GERMAN.encode(), mtime=0), "utf-8-sig"),
        ("a.txt", GERMAN.encode("utf-16"), "utf-16"),
        ("a.txt", codecs.BOM_UTF32_LE + GERMAN.encode("utf-32-le"), "utf-32"),
        ("a.txt", GERMAN.encode("cp1252"), "cp1252"),
        ("A.GZ", gzip.compress(GERMAN.encode("cp1252"), mtime=0), "cp1252"),
    ],
)
def test_a_text_is_what_was_written_and_guesses_are_told(
    tmp_path: Path, name: str, data: bytes, encoding: str
) -> None:
    (tmp_path / name).write_bytes(data)
    text, read_as, notes = read(tmp_path / name)
    assert (text, read_as) == (GERMAN, encoding)
    assert len(notes) == (encoding != "utf-8-sig")


@pytest.mark.parametrize(
    ("data", "fact"),
    [
        (gzip.compress(b"x", mtime=0), "the file is packed, and its name does not say so"),
        ("ab".encode("utf-16-le"), "it may be UTF-16 without a byte order mark"),
        (codecs.BOM_UTF16_LE + b"a", "not UTF-16 text"),
        ("привет".encode("cp1251"), "not UTF-8 text: byte 1 of the line"),
        (b"a\n\xff\xff\n", "not UTF-8 text: byte 1 of the line"),
    ],
)
def test_what_is_no_text_is_one_error(tmp_path: Path, data: bytes, fact: str) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(InputError) as caught:
        read(tmp_path / "a.txt")
    assert fact in caught.value.fact
