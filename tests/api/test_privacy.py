"""What is made of private files is private: in the cache, in build/, and one step further."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from olivebuild.api import privacy
from olivebuild.api.action import Action, ActionInput
from olivebuild.cache.store import Store
from tests.conftest import Place

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def action(store: Store, *files: Path, **inputs: ActionInput) -> Action:
    return Action(
        "t",
        "t",
        "command",
        "0" * 32,
        {},
        inputs,
        {"f": [str(f) for f in files]},
        "",
        "",
        str(store.root),
    )


def made(path: Path, bits: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(str(path))
    path.chmod(bits)
    return path


@pytest.mark.parametrize(
    ("folder", "files", "expected"),
    [
        (0o755, (0o644, 0o644), 0o666),
        (0o755, (0o644, 0o600), 0o600),
        (0o755, (0o640, 0o644), 0o660),
        (0o755, (0o604, 0o640), 0o600),
        (0o700, (0o644,), 0o600),
        (0o750, (0o644,), 0o660),
        (0o755, (0o444,), 0o666),
        (0o755, (0o400,), 0o600),
    ],
)
def test_who_may_read_all_inputs_may_read_the_result(
    folder: int, files: tuple[int, ...], expected: int, tmp_path: Path
) -> None:
    store, place = Store(tmp_path / "cache"), tmp_path / "theirs"
    paths = [made(place / f"{i}", bits) for i, bits in enumerate(files)]
    place.chmod(folder)
    # As a folder that a recipe names, as one that an input is, and as what the cache alone holds of
    # it.
    assert privacy.mode_of(action(store, place)) == expected
    assert (
        privacy.mode_of(action(store, model=ActionInput(str(place), str(place), "model", "base")))
        == expected
    )
    if folder == 0o755:
        _, blob = store.put_folder(place)
        assert (
            privacy.mode_of(
                action(store, model=ActionInput("", "", "merged", "base", manifest=blob))
            )
            == expected
        )
        assert privacy.mode_of(action(store, *paths)) == expected


def test_a_store_keeps_and_writes_out_a_file_for_those_who_could_read_it(tmp_path: Path) -> None:
    store, place = Store(tmp_path / "cache"), tmp_path / "out"
    for name, bits in (
        ("public", 0o644),
        ("group", 0o640),
        ("private", 0o600),
        ("tool", 0o700),
        ("shown", 0o755),
        ("read", 0o444),
    ):
        made(place / name, bits)
    manifest, _ = store.put_folder(place)
    blobs = {entry.name: mode(store.path(entry.digest)) for entry in manifest.files}
    assert blobs == {
        "public": 0o644,
        "group": 0o640,
        "private": 0o600,
        "tool": 0o600,
        "shown": 0o644,
        "read": 0o644,
    }
    store.restore(manifest, tmp_path / "again")
    found = {p.name: mode(p) for p in (tmp_path / "again").iterdir()}
    assert found == {
        "public": 0o644,
        "group": 0o640,
        "private": 0o600,
        "tool": 0o700,
        "shown": 0o755,
        "read": 0o644,
    }
    # A file of several blobs is for those who may read each.
    store.path(manifest.files[0].digest).chmod(0o600)
    store.restore(manifest, tmp_path / "later")
    assert mode(tmp_path / "later" / manifest.files[0].name) == 0o600


def test_a_store_for_private_results_writes_no_blob_for_others_and_its_folders_for_all(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path / "cache", 0o600)
    blob = store.put_bytes(b"secret")
    with store.batch() as batch:
        writer = batch.blob()
        writer.write(b"weights")
        other = writer.done()
    assert (mode(store.path(blob)), mode(store.path(other))) == (0o600, 0o600)
    assert mode(store.path(blob).parent) == 0o755
    assert mode(store.scratch("a")) == 0o700


def test_what_a_command_makes_of_a_private_file_stays_private_all_the_way(place: Place) -> None:
    place.recipe.write_text(
        "targets:\n"
        '  a: {kind: command, run: "cp weights {outputs.x}", files: [weights], outputs: {x: x}}\n'
        '  b: {kind: command, run: "cp {inputs.a} {outputs.y}", inputs: {a: a.x}, outputs: {y: '
        "y}}\n"
        '  c: {kind: command, run: "cp public {outputs.z}", files: [public], outputs: {z: z}}\n'
    )
    made(place.folder / "weights", 0o600)
    made(place.folder / "public", 0o644)
    assert place.build("b", "c").code == 0
    build = place.folder / "build"
    assert [mode(build / name) for name in ("a/x", "b/y", "c/z")] == [0o600, 0o600, 0o644]
    secret = (place.folder / "weights").read_bytes()
    held = {mode(p) for p in place.cache.rglob("*") if p.is_file() and p.read_bytes() == secret}
    assert held == {0o600}
    # Restored, they are as they were.
    (build / "b/y").unlink()
    assert place.build("b").code == 0
    assert mode(build / "b/y") == 0o600
