"""The workspace: what differs in build/ from what should lie there, whole folders swapped, and what
is remembered.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from olivebuild.cache.key import Reason
from olivebuild.cache.manifest import Manifest
from olivebuild.cache.store import Store
from olivebuild.core.errors import Damaged
from olivebuild.core.fs import swap
from olivebuild.core.fs.files import stat_of, wait_for_tick
from olivebuild.core.hashing import of_bytes
from olivebuild.core.journal import Journal
from olivebuild.planner.workspace import LastBuild, Workspace


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "work")


def stored(store: Store, folder: Path, **files: str) -> Manifest:
    """A manifest of files whose names have `__` for a slash and `_` for a dot."""
    folder.mkdir(parents=True)
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return store.put_folder(folder)[0]


@pytest.fixture
def manifest(store: Store, tmp_path: Path) -> Manifest:
    return stored(store, tmp_path / "made", a_txt="alpha", sub__b_txt="beta")


@pytest.fixture
def published(workspace: Workspace, store: Store, manifest: Manifest) -> Path:
    workspace.publish("t", manifest, store)
    return workspace.output_folder("t")


def contents(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): p.read_text()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_what_was_published_does_not_differ(
    workspace: Workspace, manifest: Manifest, published: Path
) -> None:
    assert contents(published) == {"a.txt": "alpha", "sub/b.txt": "beta"}
    assert workspace.differs("t", manifest) is None


def test_nothing_there_is_missing(workspace: Workspace, manifest: Manifest) -> None:
    assert workspace.differs("t", manifest) == Reason(
        "output", "build/t", manifest.digest, "missing"
    )


def flip_and_put_the_time_back(folder: Path) -> None:
    file = folder / "a.txt"
    before = file.stat()
    wait_for_tick(folder.parent, before.st_ctime_ns)
    with open(file, "r+") as f:
        f.write("Alpha")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (
        before.st_size,
        before.st_mtime_ns,
        before.st_ino,
    )


def replace_by_a_link(folder: Path) -> None:
    (folder / "a.txt").rename(folder.parent / "elsewhere")
    (folder / "a.txt").symlink_to(folder.parent / "elsewhere")


ALPHA, ALPHA_CHANGED = of_bytes("alpha"), of_bytes("Alpha")


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (flip_and_put_the_time_back, Reason("output", "build/t/a.txt", ALPHA, ALPHA_CHANGED)),
        (
            lambda t: (t / "a.txt").write_text("Alpha"),
            Reason("output", "build/t/a.txt", ALPHA, ALPHA_CHANGED),
        ),
        (
            lambda t: os.truncate(t / "a.txt", 0),
            Reason("output", "build/t/a.txt", "5 bytes", "0 bytes"),
        ),
        (
            lambda t: os.truncate(t / "sub/b.txt", 3),
            Reason("output", "build/t/sub/b.txt", "4 bytes", "3 bytes"),
        ),
        (
            lambda t: (t / "sub/b.txt").unlink(),
            Reason("output", "build/t/sub/b.txt", of_bytes("beta"), "missing"),
        ),
        (
            lambda t: (t / "extra").write_text("x"),
            Reason("output", "build/t/extra", "nothing", "a file that no step made"),
        ),
        (
            lambda t: (t / "a.txt").chmod(0o755),
            Reason("output", "build/t/a.txt", "not executable", "mode changed"),
        ),
        (replace_by_a_link, Reason("output", "build/t/a.txt", ALPHA, "not a file")),
        (
            lambda t: (t / "extra").symlink_to("sub"),
            Reason("output", "build/t/extra", "nothing", "a file that no step made"),
        ),
    ],
    ids=[
        "flipped, time put back",
        "rewritten",
        "emptied",
        "truncated",
        "deleted",
        "added",
        "mode",
        "link to a file",
        "link to a folder",
    ],
)
def test_harm_to_a_built_folder_is_noticed(
    workspace: Workspace,
    manifest: Manifest,
    published: Path,
    harm: Callable[[Path], object],
    reason: Reason,
) -> None:
    harm(published)
    assert workspace.differs("t", manifest) == reason


def test_a_lost_executable_bit_is_noticed(
    workspace: Workspace, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "run").write_text("x")
    (tmp_path / "made" / "run").chmod(0o755)
    manifest, _ = store.put_folder(tmp_path / "made")
    workspace.publish("t", manifest, store)
    assert workspace.differs("t", manifest) is None
    (workspace.output_folder("t") / "run").chmod(0o644)
    assert workspace.differs("t", manifest) == Reason(
        "output", "build/t/run", "executable", "mode changed"
    )


def test_a_file_instead_of_the_folder_is_missing(workspace: Workspace, manifest: Manifest) -> None:
    workspace.build.mkdir(parents=True)
    workspace.output_folder("t").write_text("x")
    assert workspace.differs("t", manifest) == Reason(
        "output", "build/t", manifest.digest, "missing"
    )


def test_a_link_to_an_equal_folder_is_missing(
    workspace: Workspace, manifest: Manifest, published: Path
) -> None:
    published.rename(published.parent / "real")
    published.symlink_to("real")
    assert workspace.differs("t", manifest) == Reason(
        "output", "build/t", manifest.digest, "missing"
    )


def test_a_touched_file_is_right(workspace: Workspace, manifest: Manifest, published: Path) -> None:
    os.utime(published / "a.txt", (1, 1))
    assert workspace.differs("t", manifest) is None


def test_the_digests_of_published_files_are_remembered(
    workspace: Workspace, manifest: Manifest, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object, **named: object) -> None:
        raise AssertionError("hashed again")

    monkeypatch.setattr("xxhash.xxh3_128", never)
    assert workspace.differs("t", manifest) is None


def test_publishing_replaces_the_whole_folder(
    workspace: Workspace, store: Store, published: Path, tmp_path: Path
) -> None:
    (published / "stale.txt").write_text("x")
    other = stored(store, tmp_path / "other", c_txt="gamma")
    workspace.publish("t", other, store)
    assert contents(published) == {"c.txt": "gamma"}
    assert workspace.differs("t", other) is None


def test_publishing_what_is_there_already_leaves_it_alone(
    workspace: Workspace, store: Store, manifest: Manifest, published: Path
) -> None:
    before = stat_of(published)
    workspace.publish("t", manifest, store)
    assert stat_of(published) == before


@pytest.mark.parametrize("way", ["file", "link"])
def test_publishing_replaces_whatever_stood_there(
    workspace: Workspace, store: Store, manifest: Manifest, tmp_path: Path, way: str
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_text("kept")
    workspace.build.mkdir(parents=True)
    if way == "file":
        workspace.output_folder("t").write_text("x")
    else:
        workspace.output_folder("t").symlink_to(tmp_path / "mine")
    workspace.publish("t", manifest, store)
    assert workspace.differs("t", manifest) is None
    assert contents(tmp_path / "mine") == {"precious": "kept"}


def test_a_damaged_blob_leaves_the_old_folder_as_it_was(
    workspace: Workspace, store: Store, published: Path, tmp_path: Path
) -> None:
    other = stored(store, tmp_path / "other", c_txt="gamma", d_txt="delta")
    store.path(of_bytes("delta")).write_text("DELTA")
    with pytest.raises(Damaged):
        workspace.publish("t", other, store)
    assert contents(published) == {"a.txt": "alpha", "sub/b.txt": "beta"}
    assert list((workspace.state / "tmp").iterdir()) == []


def test_nothing_is_left_in_tmp_after_publishing(workspace: Workspace, published: Path) -> None:
    assert list((workspace.state / "tmp").iterdir()) == []


def test_without_an_exchange_the_folder_is_renamed_aside(
    workspace: Workspace,
    store: Store,
    published: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(swap, "_exchange", lambda new, place: False)
    workspace.publish("t", stored(store, tmp_path / "other", c_txt="gamma"), store)
    assert contents(published) == {"c.txt": "gamma"}
    assert list((workspace.state / "tmp").iterdir()) == []


def test_a_crash_between_the_two_renames_is_undone(workspace: Workspace, published: Path) -> None:
    published.rename(workspace.state / "tmp" / "t.aside")
    workspace.recover()
    assert contents(published) == {"a.txt": "alpha", "sub/b.txt": "beta"}
    assert list((workspace.state / "tmp").iterdir()) == []


def test_a_crash_after_the_second_rename_is_finished(workspace: Workspace, published: Path) -> None:
    aside = workspace.state / "tmp" / "t.aside"
    aside.mkdir()
    (aside / "old").write_text("x")
    workspace.recover()
    assert contents(published) == {"a.txt": "alpha", "sub/b.txt": "beta"}
    assert not aside.exists()


def test_a_left_aside_folder_does_not_stop_the_next_publish(
    workspace: Workspace,
    store: Store,
    published: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(swap, "_exchange", lambda new, place: False)
    (workspace.state / "tmp" / "t.aside").mkdir()
    (workspace.state / "tmp" / "t.aside" / "old").write_text("x")
    workspace.recover()
    workspace.publish("t", stored(store, tmp_path / "other", c_txt="gamma"), store)
    assert contents(published) == {"c.txt": "gamma"}


def test_staging_folders_of_a_killed_build_are_swept(workspace: Workspace, published: Path) -> None:
    left = workspace.state / "tmp" / "t-0123abcd"
    left.mkdir()
    (left / "half.bin").write_text("x")
    workspace.recover()
    assert not left.exists()


def test_last_results_are_kept_with_their_reasons(workspace: Workspace) -> None:
    last = LastBuild(
        "k" * 32, (Reason("file", "a.csv", "1", "2"), Reason("new", "never built here")), "a note"
    )
    workspace.remember("bench:latency", last)
    workspace.save()
    assert Workspace(workspace.folder).last == {"bench:latency": last}


def test_what_another_build_remembered_is_kept(workspace: Workspace) -> None:
    other = Workspace(workspace.folder)
    workspace.remember("a", LastBuild("1"))
    workspace.save()
    other.remember("b", LastBuild("2"))
    other.save()
    assert Workspace(workspace.folder).last == {"a": LastBuild("1"), "b": LastBuild("2")}


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"a": 1}', "[" * 100_000, "0 a\tb\n"])
def test_damaged_memories_are_as_if_they_were_not_there(tmp_path: Path, text: str) -> None:
    (tmp_path / ".olivebuild").mkdir()
    (tmp_path / ".olivebuild" / "last.jsonl").write_text(text)
    assert Workspace(tmp_path).last == {}


@pytest.mark.parametrize(
    "value",
    [
        "1",
        '{"key": 1}',
        '{"key": "1", "reasons": [{}], "note": ""}',
        "[" * 100_000,
        "{",
        '{"key": "1", "odd": 2}',
    ],
)
def test_a_last_result_of_another_form_is_as_if_it_were_not_there(
    tmp_path: Path, value: str
) -> None:
    journal = Journal(tmp_path / ".olivebuild" / "last.jsonl")
    journal.set("a", value.encode())
    journal.save()
    assert Workspace(tmp_path).last == {}


def test_the_state_keeps_itself_out_of_version_control(workspace: Workspace) -> None:
    workspace.save()
    assert (workspace.state / ".gitignore").read_text() == "*\n"


def test_recipes_of_other_names_have_places_of_their_own(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, "other")
    assert workspace.output_folder("t") == tmp_path / "build" / "other" / "t"
    assert workspace.state == tmp_path / ".olivebuild" / "other"


def test_a_log_is_named_after_its_node(workspace: Workspace) -> None:
    assert workspace.log_file("bench:latency") == workspace.state / "logs" / "bench.latency.log"


def test_what_a_crash_left_is_swept_when_it_is_nobodys_any_more(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.state.mkdir(exist_ok=True)
    for name in (".last.jsonl.1.tmp", ".clock-1", ".last.jsonl.2.tmp", ".clock-2"):
        (workspace.state / name).write_bytes(b"")
    for name in (".last.jsonl.1.tmp", ".clock-1"):
        os.utime(workspace.state / name, (0, 0))
    workspace.recover()
    assert sorted(p.name for p in workspace.state.glob(".*")) == [".clock-2", ".last.jsonl.2.tmp"]
