"""The quick answer to a build of which nothing has changed, and that it never says anything else than the full path would."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from olivebuild import snapshot
from tests.conftest import Place
from tests.faults import amount

RECIPE = """\
default: last
targets:
  first: {kind: command, run: "python join.py data {outputs.all}", files: ["data/**/*.txt", "data/sub/*/*/*.txt"], outputs: {all: all.txt}}
  second: {kind: command, run: "python join.py {inputs.first} {outputs.all}", inputs: {first: first}, outputs: {all: all.txt}}
  last: {kind: command, run: "python join.py {inputs.second} {outputs.all}", inputs: {second: second}, outputs: {all: all.txt}}
"""
JOIN = """\
import pathlib, sys
given, out = map(pathlib.Path, sys.argv[1:])
files = [given] if given.is_file() else sorted({*given.rglob("*.txt"), *given.glob("sub/*/*/*.txt")})
out.write_text("".join(p.read_text() for p in files))
"""


@pytest.fixture
def built(place: Place) -> Place:
    place.recipe.write_text(RECIPE)
    (place.folder / "join.py").write_text(JOIN)
    (place.folder / "data/sub").mkdir(parents=True)
    (place.folder / "data/sub/a.txt").write_text("a")
    far = place.folder / ("far" if os.name == "posix" else "data/sub/link")
    (far / "deep").mkdir(parents=True)
    (far / "deep/a.txt").write_text("far")
    if os.name == "posix":
        (place.folder / "data/sub/link").symlink_to("../../far")
    assert place.run().code == 0
    assert "nothing to do" in place.run().out
    return place


def test_a_second_call_is_answered_without_importing_anything(built: Place) -> None:
    built.environment["PYTHONPROFILEIMPORTTIME"] = "1"
    done = built.run()
    assert done.out == "nothing to do: last is fresh\n"
    loaded = [line.rpartition("|")[2].strip() for line in done.err.splitlines()]
    assert not {"click", "yaml", "sqlite3", "json", "pathlib", "olivebuild.cli"} & set(loaded)


def test_the_answer_is_what_was_printed(built: Place) -> None:
    first = built.run("build", "--json", "last")
    again = built.run("build", "--json", "last")
    assert (again.out, again.code) == (first.out, 0)
    assert again.end["fresh"] == ["first", "second", "last"]


def test_other_words_folders_and_environments_are_other_questions(built: Place) -> None:
    assert built.run("nothing-of-that-name").code == 2
    assert built.run("second").out == "nothing to do: second is fresh\n"
    built.environment["OLIVEBUILD_CACHE"] = str(built.folder.parent / "other")
    assert "nothing to do" not in built.run().out


CHANGES: dict[str, Callable[[Path, random.Random], object]] = {
    "edit": lambda f, r: (f / "data/sub/a.txt").write_text(r.choice("abc")),
    "touch": lambda f, _: os.utime(f / "data/sub/a.txt"),
    "add": lambda f, r: (f / f"data/sub/{r.choice('bc')}.txt").write_text("new"),
    "add behind a link": lambda f, r: (f / f"data/sub/link/deep/{r.choice('bc')}.txt").write_text("far"),
    "add a folder": lambda f, r: (
        (f / f"data/{r.choice('xy')}").mkdir(exist_ok=True),
        (f / "data/x").is_dir() and (f / "data/x/n.txt").write_text("n"),
    ),
    "remove": lambda f, _: [p.unlink() for p in (*f.glob("data/*/[bcn].txt"), *f.glob("data/sub/link/*/[bc].txt"))],
    "script": lambda f, r: (f / "join.py").write_text(JOIN + f"# {r.randrange(3)}\n"),
    "recipe comment": lambda f, r: (f / "olivebuild.yaml").write_text(RECIPE + f"# {r.randrange(3)}\n"),
    "flip a result, keep its times": lambda f, _: flip(f / "build/second/all.txt"),
    "delete a result": lambda f, _: shutil.rmtree(f / "build/last", ignore_errors=True),
    "add to a result": lambda f, _: (f / "build/first").is_dir() and (f / "build/first/odd").write_text("odd"),
    "lose a trace": lambda f, r: [p.unlink() for p in sorted(f.parent.glob("cache/blobs/??/*.trace"))[:1]],
    "lose the traces": lambda f, _: [shutil.rmtree(f.parent / "cache/traces"), [p.unlink() for p in f.parent.glob("cache/blobs/??/*.trace")]],
    "nothing": lambda *_: None,
}


def flip(file: Path) -> None:
    if file.is_file():
        before = file.stat()
        file.write_bytes(bytes(b ^ 1 for b in file.read_bytes()))
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("seed", range(amount("EXAMPLES", 2)))
def test_it_never_disagrees_with_the_full_path(built: Place, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(20):
        CHANGES[chance.choice(list(CHANGES))](built.folder, chance)
        # A plan is never answered from a snapshot.
        all_fresh = set(built.verdicts().values()) == {"fresh"}
        done = built.run()
        assert done.code == 0, done.err
        assert ("nothing to do" in done.out) == all_fresh
        assert set(built.verdicts().values()) == {"fresh"}


def test_a_damaged_snapshot_is_no_answer(built: Place) -> None:
    (file,) = built.folder.glob(".olivebuild/snapshot-*")
    text = file.read_text()
    for damaged in ("", "x", text[: len(text) // 2], text.replace("0 ", "x ", 1), text.split("\n")[0] + "\n0 0 -1\n"):
        file.write_text(damaged)
        assert built.run().out == "nothing to do: last is fresh\n"


def test_a_failed_gate_or_step_is_not_answered(built: Place) -> None:
    (built.folder / "join.py").write_text("raise SystemExit(1)")
    assert built.run().code == 1
    assert built.run().code == 1


@pytest.mark.parametrize(
    ("words", "folder"),
    [([], "."), (["-C", "x"], "x"), (["-Cx"], "x"), (["--directory=x", "t"], "x"), (["--directory", "x"], "x"), (["-C"], ".")],
)
def test_the_recipe_folder_of_a_command(words: list[str], folder: str) -> None:
    assert snapshot.state_folder(words) == os.path.join(folder, ".olivebuild")


KIND = """\
from olivebuild.step import Fields, Step

class Echo(Step):
    kind, version, fields, summary = "echo", 1, Fields, "an example"

    def run(self, job):
        (job.out / "said.txt").write_text(str(self.version))

STEP = Echo()
"""


def test_another_package_s_kind_is_part_of_the_answer(place: Place) -> None:
    site = place.folder.parent / "site"
    (site / "echoes-1.dist-info").mkdir(parents=True)
    (site / "echoes-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: echoes\nVersion: 1\n")
    (site / "echoes-1.dist-info/entry_points.txt").write_text("[olivebuild.steps]\necho = echoes:STEP\n")
    (site / "echoes.py").write_text(KIND)
    place.environment["PYTHONPATH"] = f"{os.environ.get('PYTHONPATH', '')}{os.pathsep}{site}"
    place.recipe.write_text("targets:\n  said: {kind: echo}\n")
    assert place.build().ran == ["said"]
    for _ in range(3):
        place.build()
    (site / "echoes.py").write_text(KIND.replace("1,", "2,"))
    assert place.build().ran == ["said"]
    assert place.built("said", "said.txt") == b"2"


def test_a_name_with_a_line_break_is_not_written() -> None:
    with pytest.raises(ValueError, match="line break"):
        snapshot.to_text("key", {"a\nb": None}, "out", "", 0)
