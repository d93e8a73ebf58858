"""Listings of a store in memory: one object, a folder, a pattern, and names that are refused."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("obstore")

import obstore
from obstore.store import MemoryStore

from olivebuild.core.errors import InputError, Where
from olivebuild.ml.models.remotes.objects.listing import as_regex, files_of
from olivebuild.ml.models.remotes.objects.opened import Opened


def opened(objects: dict[str, bytes]) -> Opened:
    store = MemoryStore()
    for path, data in objects.items():
        obstore.put(store, path, data)
    where = Where("olivebuild.yaml", 3, 5)
    return Opened(store=store, scheme="s3", text="s3://bucket/...", where=where, signed=True)


FOLDER = {"k/b.json": b"bb", "k/a.json": b"a", "k/deep/c.json": b"ccc", "kk/d.json": b"d"}


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("k/a.json", ["a.json"]),
        ("k/", ["a.json", "b.json", "deep/c.json"]),
        ("k", ["a.json", "b.json", "deep/c.json"]),
        ("k/*.json", ["a.json", "b.json"]),
        ("k/**/*.json", ["a.json", "b.json", "deep/c.json"]),
        ("k/**", ["a.json", "b.json", "deep/c.json"]),
        ("k*/[!a].json", ["k/b.json", "kk/d.json"]),
        ("k/?.json", ["a.json", "b.json"]),
    ],
)
def test_a_path_names_objects(path: str, names: list[str]) -> None:
    files = files_of(opened(FOLDER), path)
    assert [file.name for file in files] == names
    assert all(file.size == len(FOLDER[file.path]) for file in files)
    assert all(file.etag and '"' not in file.etag for file in files)


@pytest.mark.parametrize(
    ("path", "fact"),
    [
        ("gone", "it does not exist"),
        ("k/a", "it does not exist"),
        ("k/gone/", "it does not exist"),
        ("K/a.json", "it does not exist"),
        ("k/*.csv", "it matches no object"),
    ],
)
def test_what_is_not_there_is_one_error(path: str, fact: str) -> None:
    with pytest.raises(InputError) as caught:
        files_of(opened(FOLDER), path)
    assert caught.value.fact == f"s3://bucket/...: {fact}"
    assert str(caught.value.where) == "olivebuild.yaml:3:5"
    assert caught.value.hint


def test_objects_that_stand_for_folders_are_left_out() -> None:
    store = opened({"k": b"", "k/deep": b"", "k/deep/a": b"a"})
    assert [file.name for file in files_of(store, "k")] == ["deep/a"]


def test_an_object_without_content_is_a_file() -> None:
    (file,) = files_of(opened({"k/empty": b""}), "k/empty")
    assert (file.name, file.size) == ("empty", 0)


@pytest.mark.parametrize(
    ("objects", "fact"),
    [
        ({"k/a": b"1", "k/a/b": b"2"}, "'k/a': it is an object and a folder"),
        ({"k/a:b": b"1"}, "'k/a:b': no file can have this name on every system"),
        ({"k/a\\b": b"1"}, "no file can have this name on every system"),
        ({"k/a\u202eb": b"1"}, "no file can have this name on every system"),
    ],
)
def test_a_name_that_no_folder_can_hold_is_refused(objects: dict[str, bytes], fact: str) -> None:
    with pytest.raises(InputError) as caught:
        files_of(opened(objects), "k/")
    assert fact in caught.value.fact
    assert caught.value.hint == "name a folder or a pattern without it"


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("a/*.csv", ["a/.csv", "a/b.csv"], ["a/b/c.csv", "a/bcsv", "xa/b.csv"]),
        ("**/a", ["a", "b/a", "b/c/a"], ["ba"]),
        ("a/**", ["a/b", "a/b/c"], ["b/a"]),
        ("[a-c].x", ["a.x", "b.x"], ["d.x", "-.x"]),
        ("[!a-c]", ["d"], ["a", "b"]),
        ("a+(b)?", ["a+(b)c"], ["aab", "a+(b)"]),
        ("[", ["["], ["a"]),
    ],
)
def test_patterns(pattern: str, matches: list[str], others: list[str]) -> None:
    compiled = re.compile(as_regex(pattern))
    assert [text for text in (*matches, *others) if compiled.fullmatch(text)] == matches
