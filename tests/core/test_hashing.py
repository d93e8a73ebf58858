"""Digests, the memo of stats, and atomic writes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from olivebuild.core import hashing
from olivebuild.core.fs.files import files_below, is_past, stat_of, wait_for_tick, write_atomically
from olivebuild.core.hashing import StatMemo, canonical_json, of_bytes, of_file, of_json
from olivebuild.core.journal import Journal


def settle(folder: Path, *files: Path) -> None:
    """Let the file system's clock pass the last change, so that a digest may be remembered."""
    wait_for_tick(folder, max(max(stat_of(f)[3:]) for f in files))


class Counting:
    """A digest that counts how often it was computed."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, path: Path, count: hashing.OnBytes) -> str:
        self.calls += 1
        return of_file(path)


@pytest.fixture
def counting() -> Counting:
    return Counting()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "a.txt"
    path.parent.mkdir()
    path.write_text("one")
    return path


@pytest.fixture
def memo(tmp_path: Path, file: Path) -> StatMemo:
    settle(tmp_path, file)
    return StatMemo(tmp_path / "state" / "stats.jsonl")


def test_the_digest_is_xxh3_128() -> None:
    assert of_bytes(b"") == "99aa06d3014798d86001c324468d497f"
    assert of_bytes("é") == of_bytes("é".encode())


def test_a_file_has_the_digest_of_its_bytes(tmp_path: Path) -> None:
    data = os.urandom(hashing.CHUNK + 17)
    (tmp_path / "f").write_bytes(data)
    assert of_file(tmp_path / "f") == of_bytes(data)


@pytest.mark.parametrize(
    ("size", "sizes"),
    [(0, [0]), (1, [1]), (4, [4]), (5, [4, 1]), (8, [4, 4]), (11, [4, 4, 3])],
    ids=lambda v: str(v).replace(" ", ""),
)
def test_a_long_file_has_the_digest_of_its_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, sizes: list[int]
) -> None:
    monkeypatch.setattr(hashing, "SEGMENT", 4)
    data = os.urandom(size)
    (tmp_path / "f").write_bytes(data)
    assert hashing.segments(size) == sizes
    parts = [
        (of_bytes(data[start : start + 4]), len(data[start : start + 4]))
        for start in range(0, size, 4)
    ]
    assert of_file(tmp_path / "f") == (of_json(parts) if len(parts) > 1 else of_bytes(data))


def test_a_segment_is_long_enough_for_the_digest_of_most_files_to_be_that_of_their_bytes() -> None:
    assert hashing.segments(64 << 20) == [64 << 20]


@pytest.mark.parametrize("other", [b"", b"abcdef", b"abcdefg!", b"abcdefgh?", b"abcdefghabcdefgh"])
def test_pieces_tell_a_file_of_another_length(tmp_path: Path, other: bytes) -> None:
    (tmp_path / "f").write_bytes(b"abcdefgh")
    (tmp_path / "g").write_bytes(other)
    assert hashing.of_runs(tmp_path / "f", [3, 5]) == of_json(
        [(of_bytes(b"abc"), 3), (of_bytes(b"defgh"), 5)]
    )
    assert hashing.of_runs(tmp_path / "g", [3, 5]) != hashing.of_runs(tmp_path / "f", [3, 5])
    assert hashing.of_runs(tmp_path / "g", [8]) != hashing.of_runs(tmp_path / "f", [8])


def test_who_listens_hears_of_a_long_file_until_its_end(
    memo: StatMemo, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[Path, int, int]] = []
    memo.listen = lambda path, done, total: heard.append((path, done, total))
    monkeypatch.setattr(hashing, "SEGMENT", 2)
    assert memo.digest(file)
    assert heard == []
    monkeypatch.setattr(hashing, "LONG", 3)
    memo.digest(file, digest_kind="again")
    assert heard[-1] == (file, 3, 3)


def test_the_order_of_keys_does_not_count_in_json() -> None:
    assert of_json({"a": 1, "b": [1, 2]}) == of_json({"b": [1, 2], "a": 1})
    assert of_json([1, 2]) != of_json([2, 1])
    assert canonical_json({"b": "é", "a": 1}) == '{"a":1,"b":"é"}'


def test_files_below_are_sorted_by_their_paths_and_without_noise(tmp_path: Path) -> None:
    for name in ("b/z.txt", "b/a.txt", "b.txt", "a/x", ".hidden", "b/.DS_Store", "Thumbs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [p.relative_to(tmp_path).as_posix() for p in files_below(tmp_path)] == [
        ".hidden",
        "a/x",
        "b.txt",
        "b/a.txt",
        "b/z.txt",
    ]


def test_an_unchanged_file_is_hashed_once(memo: StatMemo, file: Path, counting: Counting) -> None:
    assert memo.digest(file, counting) == memo.digest(file, counting) == of_bytes("one")
    assert counting.calls == 1


def test_a_changed_file_is_hashed_again(memo: StatMemo, file: Path, counting: Counting) -> None:
    memo.digest(file, counting)
    file.write_text("two")
    assert memo.digest(file, counting) == of_bytes("two")
    assert counting.calls == 2


def test_a_change_with_the_time_put_back_is_noticed(memo: StatMemo, file: Path) -> None:
    assert memo.digest(file) == of_bytes("one")
    before = file.stat()
    wait_for_tick(file.parent, before.st_ctime_ns)
    file.write_text("two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (
        before.st_size,
        before.st_mtime_ns,
        before.st_ino,
    )
    assert memo.digest(file) == of_bytes("two")


def test_a_file_replaced_by_another_of_equal_size_and_time_is_noticed(
    memo: StatMemo, file: Path
) -> None:
    memo.digest(file)
    before = file.stat()
    other = file.with_name("b.txt")
    other.write_text("two")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, file)
    assert memo.digest(file) == of_bytes("two")


def test_a_file_as_young_as_the_scan_is_always_hashed(tmp_path: Path, counting: Counting) -> None:
    memo = StatMemo(tmp_path / "stats.jsonl")
    file = tmp_path / "young.txt"
    wait_for_tick(tmp_path, memo._start)
    file.write_text("one")
    memo.digest(file, counting)
    memo.digest(file, counting)
    assert counting.calls == 2


def test_a_file_of_the_very_tick_of_the_scan_is_not_remembered(
    tmp_path: Path, file: Path, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "filesystem_time", lambda folder: max(stat_of(file)[3:]))
    memo = StatMemo(tmp_path / "stats.jsonl")
    memo.digest(file, counting)
    memo.digest(file, counting)
    assert counting.calls == 2


def test_a_file_dated_into_the_future_is_never_remembered(
    tmp_path: Path, file: Path, counting: Counting
) -> None:
    later = file.stat().st_mtime_ns + 10**15
    os.utime(file, ns=(later, later))
    settle(tmp_path, tmp_path / "data")
    memo = StatMemo(tmp_path / "stats.jsonl")
    memo.digest(file, counting)
    memo.digest(file, counting)
    assert counting.calls == 2


def test_digests_of_another_flavour_are_kept_apart(memo: StatMemo, file: Path) -> None:
    assert memo.digest(file, lambda p, count: "tensors of it", "tensors") == "tensors of it"
    assert memo.digest(file) == of_bytes("one")
    assert memo.digest(file, lambda p, count: "never asked", "tensors") == "tensors of it"


def test_a_file_that_changes_while_it_is_hashed_is_hashed_again(memo: StatMemo, file: Path) -> None:
    def compute(path: Path, count: hashing.OnBytes) -> str:
        found = of_file(path)
        if found == of_bytes("one"):
            path.write_text("and now longer")
        return found

    assert memo.digest(file, compute) == of_bytes("and now longer")


def test_what_is_saved_is_known_to_the_next_memo(
    tmp_path: Path, memo: StatMemo, file: Path, counting: Counting
) -> None:
    memo.digest(file, counting)
    memo.save()
    assert StatMemo(tmp_path / "state" / "stats.jsonl").digest(file, counting) == of_bytes("one")
    assert counting.calls == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"bytes:x": 3}'])
def test_a_damaged_memo_is_as_if_it_were_not_there(
    tmp_path: Path, file: Path, content: bytes
) -> None:
    (tmp_path / "stats.jsonl").write_bytes(content)
    assert StatMemo(tmp_path / "stats.jsonl").digest(file) == of_bytes("one")


def note(file: Path, name: str, value: object) -> None:
    journal = Journal(file)
    journal.set(name, json.dumps(value).encode())
    journal.save()


@pytest.mark.parametrize("entry", [3, "text", {"a": 1}, [1], []])
def test_a_damaged_entry_of_the_memo_is_as_if_it_were_not_there(
    tmp_path: Path, file: Path, entry: object
) -> None:
    note(tmp_path / "stats.jsonl", f"bytes:{file}", entry)
    assert StatMemo(tmp_path / "stats.jsonl").digest(file) == of_bytes("one")


def test_an_entry_of_the_memo_without_its_digest_is_as_if_it_were_not_there(
    tmp_path: Path, file: Path
) -> None:
    note(tmp_path / "stats.jsonl", f"bytes:{file}", list(stat_of(file)))
    assert StatMemo(tmp_path / "stats.jsonl").digest(file) == of_bytes("one")


def test_a_missing_file_raises(memo: StatMemo, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        memo.digest(tmp_path / "nowhere")


def test_the_memo_leaves_nothing_but_its_file(tmp_path: Path, memo: StatMemo, file: Path) -> None:
    memo.digest(file)
    memo.save()
    assert [p.name for p in (tmp_path / "state").iterdir()] == ["stats.jsonl"]


def test_an_atomic_write_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "f"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_not_synced_is_known_until_the_next_boot_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, asked = tmp_path / "file", list[Path]()
    file.write_bytes(b"content")
    wait_for_tick(tmp_path / "state", stat_of(file)[3])

    def compute(path: Path, _progress: object) -> str:
        asked.append(path)
        return "0" * 32

    memo = StatMemo(tmp_path / "state" / "stats.jsonl")
    memo.remember(file, stat_of(file), "1" * 32, until_boot=True)
    memo.save()
    assert StatMemo(tmp_path / "state" / "stats.jsonl").digest(file, compute) == "1" * 32
    monkeypatch.setattr(hashing, "boot", lambda: "another")
    assert StatMemo(tmp_path / "state" / "stats.jsonl").digest(file, compute) == "0" * 32
    assert asked == [file]


def test_a_time_of_whole_seconds_may_come_again(tmp_path: Path) -> None:
    second = 1_000_000_000
    for ctime, moment, past in (
        (5, 6, True),
        (5, 5, False),
        (0, 2 * second, False),
        (0, 2 * second + 1, True),
        (second, 2 * second, False),
    ):
        assert is_past((1, 1, 1, 0, ctime), moment) is past
