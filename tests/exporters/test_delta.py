"""Deltas between folders of tensors, applied with and without olivebuild, and interrupted."""

from __future__ import annotations

import ast
import json
import random
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from olivebuild.core.errors import InputError
from olivebuild.core.fs.locks import locked_folder
from olivebuild.exporters import delta, manifest, standalone
from olivebuild.exporters.manifest import ExportManifest
from tests.conftest import Place

TENSORS, SIZE = 40, 20_000


def version(folder: Path, seed: int, changed: range, flips: int = 0) -> ExportManifest:
    """Write a version: random tensors of which those in `changed` are others, or some bits are."""
    folder.mkdir()
    pieces = []
    for number in range(TENSORS):
        data = bytearray(random.Random(number).randbytes(SIZE))
        draw = random.Random(f"{seed} {number}")
        if number in changed and flips:
            for _ in range(flips):
                data[draw.randrange(SIZE)] ^= 1 << draw.randrange(8)
        elif number in changed:
            data = bytearray(draw.randbytes(SIZE))
        pieces.append(bytes(data))
    (folder / "model.data").write_bytes(b"".join(pieces))
    (folder / "sub").mkdir()
    (folder / "sub/config.json").write_text(json.dumps({"version": seed}))
    if seed == 2:
        (folder / "new.txt").write_text("new")
    else:
        (folder / "old.txt").write_text("old")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    from olivebuild.core import hashing

    runs = tuple((hashing.of_bytes(piece), SIZE) for piece in pieces)
    contents = ExportManifest(
        target="m", kind="onnx", digest=str(seed), version="1",
        files=tuple(manifest.files_of(folder, {"model.data": runs})),
    )  # fmt: skip
    (folder / manifest.NAME).write_text(contents.to_text())
    return contents


def make(root: Path, *, flips: int = 0, with_folder: bool = True) -> delta.DeltaSize:
    one = version(root / "one", 1, range(0))
    two = version(root / "two", 2, range(5, 15), flips)
    (root / "delta").mkdir()
    text = (root / "one" / manifest.NAME).read_bytes()
    old = delta.Old(one, text, root / "one" if with_folder else None)
    return delta.write(old, two, root / "two", root / "delta")


def same(a: Path, b: Path, *, but: str = "") -> bool:
    def content(folder: Path) -> dict[str, tuple[bytes, bool]]:
        files = [path for path in folder.rglob("*") if path.is_file() and path.name != but]
        return {
            p.relative_to(folder).as_posix(): (p.read_bytes(), bool(p.stat().st_mode & 0o100))
            for p in files
        }

    return content(a) == content(b)


def test_only_what_changed_is_sent(tmp_path: Path) -> None:
    size = make(tmp_path)
    assert size.changed == 10 + 3  # tensors; the configuration, the manifest and a new file
    assert 0.24 < size.delta / size.whole < 0.30
    assert standalone.apply(tmp_path / "one", tmp_path / "delta")
    assert same(tmp_path / "one", tmp_path / "two")
    assert not standalone.apply(tmp_path / "one", tmp_path / "delta")


def test_few_bits_take_few_bytes_where_the_old_version_is_here(tmp_path: Path) -> None:
    size = make(tmp_path, flips=50)
    assert size.delta / size.whole < 0.03
    assert standalone.apply(tmp_path / "one", tmp_path / "delta")
    assert same(tmp_path / "one", tmp_path / "two")


def test_a_manifest_is_enough(tmp_path: Path) -> None:
    size = make(tmp_path, flips=50, with_folder=False)
    assert 0.24 < size.delta / size.whole < 0.30
    assert standalone.apply(tmp_path / "one", tmp_path / "delta")
    assert same(tmp_path / "one", tmp_path / "two")


def test_python_alone_applies_it_and_keeps_other_files(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "one/mine.txt").write_text("mine")
    program, place = str(tmp_path / "delta/apply.py"), str(tmp_path / "one")
    command = [sys.executable, "-I", "-S", program, place]
    for said in ("applied\n", "there already\n"):
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        assert done.stdout == said
    assert (tmp_path / "one/mine.txt").read_text() == "mine"
    assert same(tmp_path / "one", tmp_path / "two", but="mine.txt")


def test_two_at_once_wait_for_each_other(tmp_path: Path, place: Place) -> None:
    make(tmp_path)
    folder, changed = str(tmp_path / "one"), str(tmp_path / "delta")
    with locked_folder(tmp_path):
        both = [
            subprocess.Popen(
                [sys.executable, "-I", "-S", f"{changed}/apply.py", folder],
                stdout=subprocess.PIPE,
                text=True,
            ),
            place.start("apply", folder, changed),
        ]
        assert both[1].stderr
        assert "waiting for process" in both[1].stderr.readline()
        time.sleep(0.3)
        assert [process.poll() for process in both] == [None, None]
        assert not same(tmp_path / "one", tmp_path / "two")
    told = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(("there already" in out, "new version already" in out) for out, _ in told) in (
        [(False, False), (False, True)],
        [(False, False), (True, False)],
    )
    assert same(tmp_path / "one", tmp_path / "two")


def test_the_program_is_short() -> None:
    tree = ast.parse(Path(standalone.__file__).read_text(), feature_version=(3, 8))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    docstrings = {
        line
        for node in functions
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    lines = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and not isinstance(node, ast.Import | ast.ImportFrom)
        for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    program = Path(standalone.__file__).read_text().splitlines()
    head = ast.get_docstring(tree, clean=False)
    assert head
    code = [n for n in lines - docstrings if program[n - 1].strip() and n > head.count("\n") + 1]
    assert len(code) <= 60


@pytest.mark.parametrize("what", ["model.data", "old.txt"])
def test_another_version_is_refused_and_stays(tmp_path: Path, what: str) -> None:
    make(tmp_path)
    (tmp_path / "one" / what).write_bytes(b"other")
    shutil.copytree(tmp_path / "one", tmp_path / "before")
    with pytest.raises(ValueError, match="is not the version"):
        standalone.apply(tmp_path / "one", tmp_path / "delta")
    assert same(tmp_path / "one", tmp_path / "before")


def test_a_damaged_delta_changes_nothing(tmp_path: Path) -> None:
    make(tmp_path)
    shutil.copytree(tmp_path / "one", tmp_path / "before")
    file = tmp_path / "delta/delta.bin"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises((ValueError, zlib.error)):
        standalone.apply(tmp_path / "one", tmp_path / "delta")
    assert same(tmp_path / "one", tmp_path / "before")


@pytest.mark.parametrize(
    "name", ["../out", "/out", "a/../../out", "a\\..\\out", "C:out", "", "a//b"]
)
def test_names_do_not_leave_the_folder(tmp_path: Path, name: str) -> None:
    make(tmp_path)
    file = tmp_path / "delta/delta.json"
    plan = json.loads(file.read_text())
    for place in ("new", "copied", "old"):
        wrong = json.loads(json.dumps(plan))
        if place == "new":
            wrong["files"][0]["name"] = name
        elif place == "copied":
            wrong["files"][0]["parts"] = [["copy", name, 0, 1, 0, 0]]
        else:
            wrong["old"][name] = "0" * 64
        file.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match="leaves the folder"):
            standalone.apply(tmp_path / "one", tmp_path / "delta")


def test_a_folder_that_was_changed_is_no_export(tmp_path: Path) -> None:
    contents = version(tmp_path / "one", 1, range(0))
    delta.check_folder(contents, tmp_path / "one")
    (tmp_path / "one/old.txt").write_text("other")
    with pytest.raises(InputError, match=r"old\.txt is not as it was exported"):
        delta.check_folder(contents, tmp_path / "one")
    with pytest.raises(InputError, match="this is no export"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("times", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_an_interrupted_application_leaves_the_old_or_the_new(tmp_path: Path, times: int) -> None:
    make(tmp_path)
    begin = time.monotonic()
    shutil.copytree(tmp_path / "one", tmp_path / "place")
    program, place = str(tmp_path / "delta/apply.py"), str(tmp_path / "place")
    command = [sys.executable, "-I", "-S", program, place]
    subprocess.run(command, check=True, capture_output=True)
    whole = time.monotonic() - begin
    draw = random.Random(times)
    for _ in range(times):
        shutil.rmtree(tmp_path / "place")
        shutil.copytree(tmp_path / "one", tmp_path / "place")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.2, 1.0) * whole)
        process.kill()
        process.wait()
        assert same(tmp_path / "place", tmp_path / "one") or same(
            tmp_path / "place", tmp_path / "two"
        )
        subprocess.run(command, check=True, capture_output=True)
        assert same(tmp_path / "place", tmp_path / "two")


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a bomb": lambda plan: plan["files"][0]["parts"].insert(0, ["new", "", 0, 1 << 50, 0, 9]),
    "a size below nothing": lambda plan: plan["files"][0]["parts"][0].__setitem__(3, -1),
    "a difference of other sizes": lambda plan: plan["files"][0].update(
        parts=[["xor", "old.txt", 0, 1, 0, 1 << 20]]
    ),
    "a part of less": lambda plan: plan["files"][0]["parts"].append([]),
    "no list": lambda plan: plan.update(files={"a": 1}),
    "no files": lambda plan: plan.pop("files"),
    "a file twice": lambda plan: plan["files"].append(plan["files"][0]),
    "bytes that are none": lambda plan: plan["files"][0].update(parts=[["new", "", 0, 5, 3, 20]]),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_what_is_no_delta_is_one_error_and_leaves_nothing(tmp_path: Path, what: str) -> None:
    make(tmp_path, flips=50)
    shutil.copytree(tmp_path / "one", tmp_path / "before")
    file = tmp_path / "delta/delta.json"
    plan = json.loads(file.read_text())
    DAMAGES[what](plan)
    file.write_text(json.dumps(plan))
    with pytest.raises((ValueError, OSError, LookupError, TypeError, ArithmeticError, zlib.error)):
        standalone.apply(tmp_path / "one", tmp_path / "delta")
    assert same(tmp_path / "one", tmp_path / "before")
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "delta", "before"}


def test_links_are_followed_to_the_folder_and_never_out_of_it(tmp_path: Path) -> None:
    make(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "current").symlink_to("one")
    # What a user has put there under the name of a new file is his.
    (outside / "theirs.txt").write_text("theirs")
    (tmp_path / "one/new.txt").symlink_to(outside / "theirs.txt")
    with pytest.raises(FileExistsError):
        standalone.apply(tmp_path / "current", tmp_path / "delta")
    (tmp_path / "one/new.txt").unlink()
    (tmp_path / "one/sub").rename(outside / "sub")
    (tmp_path / "one/sub").symlink_to(outside / "sub")
    with pytest.raises(ValueError, match=r"'sub/config\.json' leaves the folder"):
        standalone.apply(tmp_path / "current", tmp_path / "delta")
    assert (outside / "theirs.txt").read_text() == "theirs"
    (tmp_path / "one/sub").unlink()
    (outside / "sub").rename(tmp_path / "one/sub")
    assert standalone.apply(tmp_path / "current", tmp_path / "delta")
    assert (tmp_path / "current").readlink() == Path("one")
    assert same(tmp_path / "one", tmp_path / "two")


def test_the_command_finishes_what_was_interrupted_between_two_renames(
    tmp_path: Path, place: Place
) -> None:
    make(tmp_path)
    (tmp_path / "one").rename(tmp_path / ".one.old")
    shutil.copytree(tmp_path / "two", tmp_path / ".one.new")
    done = place.run("apply", str(tmp_path / "one"), str(tmp_path / "delta"))
    assert done.code == 0, done.err
    assert same(tmp_path / "one", tmp_path / "two")
    done = place.run("apply", str(tmp_path / "none"), str(tmp_path / "delta"))
    assert (done.code, "is not the version that the delta begins with" in done.err) == (1, True)
