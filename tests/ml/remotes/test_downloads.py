"""Downloads in the cache: what is whole, what is damaged, and records that were lost."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from olivebuild.formats.source import Source
from olivebuild.ml.models.remotes.downloads import Downloads
from tests.ml.remotes.asking import Asking

SOURCE = "s3://bucket/k/"


def downloads(folder: Path) -> tuple[Downloads, Asking]:
    asking = Asking(folder, SOURCE)
    return Downloads.of(asking.job(), asking.source, "pin"), asking


def put(place: Downloads, name: str, data: bytes) -> str:
    file = place.files / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def test_each_source_and_pin_has_a_folder_of_its_own(tmp_path: Path) -> None:
    job = Asking(tmp_path, SOURCE).job()
    sources = [Source.parse(SOURCE), Source.parse("s3://bucket/l/")]
    roots = {Downloads.of(job, source, pin).root for source in sources for pin in ("a", "b")}
    assert len(roots) == 4
    assert {root.parent for root in roots} == {tmp_path / "cache" / "downloads"}


def test_only_what_is_whole_is_not_lacking(tmp_path: Path) -> None:
    place, asking = downloads(tmp_path)
    with place.in_use():
        digests = {name: put(place, name, name.encode()) for name in ("a", "d/b", "c", "e")}
        place.keep({name: digests[name] for name in ("a", "d/b")})
        place.keep({"c": digests["c"]})
    (place.files / "d/b").write_bytes(b"x/b")
    (place.files / "c").unlink()
    job = asking.job()
    sizes = {"a": 1, "d/b": 3, "c": 1, "e": 1, "f": 0}
    assert place.lacking(sizes, job) == ["d/b", "c", "e", "f"]
    assert "damaged in the cache, so fetched again: d/b, c" in asking.said.getvalue()


def test_another_size_is_another_file(tmp_path: Path) -> None:
    place, asking = downloads(tmp_path)
    with place.in_use():
        place.keep({"a": put(place, "a", b"a")})
    assert place.lacking({"a": 1}, asking.job()) == []
    assert place.lacking({"a": 2}, asking.job()) == ["a"]


def test_what_the_lock_file_says_counts(tmp_path: Path) -> None:
    place, asking = downloads(tmp_path)
    with place.in_use():
        place.keep({"a": put(place, "a", b"a")})
    asking.sha256 = {"a": "0" * 64}
    assert place.lacking({"a": 1}, asking.job()) == ["a"]


def test_a_long_list_of_damage_is_cut(tmp_path: Path) -> None:
    place, asking = downloads(tmp_path)
    with place.in_use():
        place.keep(dict.fromkeys("abcde", "0" * 64))
    place.lacking(dict.fromkeys("abcde", 1), asking.job())
    assert "fetched again: a, b, c ..." in asking.said.getvalue()


def test_sizes_are_there_once_all_is(tmp_path: Path) -> None:
    place, _ = downloads(tmp_path)
    assert place.finished() == {}
    with place.in_use():
        place.finish({"a": 1, "b": 0})
    assert place.finished() == {"a": 1, "b": 0}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", "null", '{"a": null}', '{"a": "many"}', '{"a": 1e999}', "[" * 5000, "\x00"],
)
def test_a_damaged_record_costs_time_alone(tmp_path: Path, text: str) -> None:
    place, asking = downloads(tmp_path)
    with place.in_use():
        put(place, "a", b"a")
        for name in ("sizes.json", "digests.json"):
            (place.root / name).write_text(text, "utf-8")
    assert place.finished() == {}
    assert place.lacking({"a": 1}, asking.job()) == ["a"]
    with place.in_use():
        place.keep({"b": "0" * 64})
    assert place.digests()["b"] == "0" * 64
