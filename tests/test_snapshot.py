# Tables of small deeds, each one expression.
# mypy: disable-error-code="func-returns-value"
"""The quick answer to a build of which nothing has changed, and that it never says anything else
than the full path would.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from olivebuild import snapshot
from olivebuild.planner import node_db
from tests.conftest import Place
from tests.support.faults import amount

RECIPE = """\
default: last
targets:
  first: {kind: command, run: "python join.py data {outputs.all}",
    files: ["data/**/*.txt", "data/sub/*/*/*.txt"], outputs: {all: all.txt}}
  second: {kind: command, run: "python join.py {inputs.first} {outputs.all}",
    inputs: {first: first}, outputs: {all: all.txt}}
  last: {kind: command, run: "python join.py {inputs.second} {outputs.all}",
    inputs: {second: second}, outputs: {all: all.txt}}
"""
JOIN = """\
import pathlib, sys
given, out = map(pathlib.Path, sys.argv[1:])
files = [given]
if given.is_dir():
    files = sorted({*given.rglob("*.txt"), *given.glob("sub/*/*/*.txt")})
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
    # Coverage, where it is measured, would import these itself.
    built.environment |= {"PYTHONPROFILEIMPORTTIME": "1", "COVERAGE_PROCESS_CONFIG": ""}
    done = built.run()
    assert done.out == "nothing to do: last is fresh\n"
    loaded = [line.rpartition("|")[2].strip() for line in done.err.splitlines()]
    assert not {"click", "yaml", "sqlite3", "json", "pathlib", "olivebuild.cli.main"} & set(loaded)


def test_the_answer_is_what_was_printed(built: Place) -> None:
    first = built.run("build", "--json", "last")
    again = built.run("build", "--json", "last")
    assert (again.out, again.code) == (first.out, 0)
    assert again.end["fresh"] == ["first", "second", "last"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_answer_that_can_t_be_printed_is_told_as_on_the_full_path(
    built: Place, unbuffered: str
) -> None:
    built.environment["PYTHONUNBUFFERED"] = unbuffered
    assert "nothing to do" in built.run().out
    answered, looked_up = (
        [_printed_to(built, words, to) for to in ("/dev/full", "")] for words in ([], ["plan"])
    )
    assert (
        answered
        == looked_up
        == [(1, "standard output: error: no room is left on the disk"), (1, "")]
    )


def _printed_to(place: Place, words: list[str], file: str) -> tuple[int, str]:
    """Exit code and first line of the errors; without a file, of a pipe that nobody reads."""
    end = os.open(file, os.O_WRONLY) if file else _unread()
    try:
        environment = os.environ | {"OLIVEBUILD_CACHE": str(place.cache)} | place.environment
        command = [sys.executable, "-m", "olivebuild", *words]
        done = subprocess.run(
            command,
            cwd=place.folder,
            env=environment,
            stdout=end,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(end)
    return done.returncode, (done.stderr.splitlines() or [""])[0]


def _unread() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def test_other_words_folders_and_environments_are_other_questions(built: Place) -> None:
    assert built.run("nothing-of-that-name").code == 2
    assert built.run("second").out == "nothing to do: second is fresh\n"
    built.environment["OLIVEBUILD_CACHE"] = str(built.folder.parent / "other")
    assert "nothing to do" not in built.run().out


CHANGES: dict[str, Callable[[Path, random.Random], object]] = {
    "edit": lambda f, r: (f / "data/sub/a.txt").write_text(r.choice("abc")),
    "touch": lambda f, _: os.utime(f / "data/sub/a.txt"),
    "add": lambda f, r: (f / f"data/sub/{r.choice('bc')}.txt").write_text("new"),
    "add behind a link": lambda f, r: (f / f"data/sub/link/deep/{r.choice('bc')}.txt").write_text(
        "far"
    ),
    "add a folder": lambda f, r: (
        (f / f"data/{r.choice('xy')}").mkdir(exist_ok=True),
        (f / "data/x").is_dir() and (f / "data/x/n.txt").write_text("n"),
    ),
    "remove": lambda f, _: [
        p.unlink() for p in (*f.glob("data/*/[bcn].txt"), *f.glob("data/sub/link/*/[bc].txt"))
    ],
    "script": lambda f, r: (f / "join.py").write_text(JOIN + f"# {r.randrange(3)}\n"),
    "recipe comment": lambda f, r: (f / "olivebuild.yaml").write_text(
        RECIPE + f"# {r.randrange(3)}\n"
    ),
    "flip a result, keep its times": lambda f, _: flip(f / "build/second/all.txt"),
    "delete a result": lambda f, _: shutil.rmtree(f / "build/last", ignore_errors=True),
    "add to a result": lambda f, _: (
        (f / "build/first").is_dir() and (f / "build/first/odd").write_text("odd")
    ),
    "lose a trace": lambda f, r: [
        p.unlink() for p in sorted(f.parent.glob("cache/blobs/??/*.trace"))[:1]
    ],
    "lose the traces": lambda f, _: [
        shutil.rmtree(f.parent / "cache/traces"),
        [p.unlink() for p in f.parent.glob("cache/blobs/??/*.trace")],
    ],
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


RECALLED = """\
from pathlib import Path
from olivebuild.planner.project import open_changed
project = open_changed(Path.cwd(), None, (), (), None)
project.planner.traces.close()
print(*sorted(project.before.changed) if project.before else ["everything"])
"""


def test_a_build_after_an_edit_looks_only_at_what_the_edit_reaches(place: Place) -> None:
    """Without having recalled the last build it would come to the same result, only slower, so
    nothing else would tell.
    """
    copy = (
        "  copy{0}: {{kind: command, run: 'cp in{0}.txt {{outputs.o}}', files: [in{0}.txt], "
        "outputs: {{o: o}}}}\n"
    )
    place.recipe.write_text("targets:\n" + "".join(map(copy.format, range(12))))
    for number in range(12):
        (place.folder / f"in{number}.txt").write_text(str(number))
    assert len(place.build().end["ran"]) == 12
    for number in (3, 7, 3):
        # What was written just before a build is looked at once more.
        assert place.build().end["ran"] == []
        (place.folder / f"in{number}.txt").write_text(f"edit {number} of {time.time_ns()}")
        environment = os.environ | {"OLIVEBUILD_CACHE": str(place.cache), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", RECALLED],
            cwd=place.folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.stdout == f"copy{number}\n", done.stderr
        assert place.build().end["ran"] == [f"copy{number}"]


def test_a_damaged_snapshot_is_no_answer(built: Place) -> None:
    (file,) = built.folder.glob(".olivebuild/snapshot-*")
    data = file.read_bytes()
    half = len(data) // 2
    for damaged in (
        b"",
        b"x",
        data[:half],
        data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :],
        data.split(b"\n")[0] + b"\n0 0 -1\n",
    ):
        file.write_bytes(damaged)
        assert built.run().out == "nothing to do: last is fresh\n"


def test_a_failed_gate_or_step_is_not_answered(built: Place) -> None:
    (built.folder / "join.py").write_text("raise SystemExit(1)")
    assert built.run().code == 1
    assert built.run().code == 1


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        ([], "."),
        (["-C", "x"], "x"),
        (["-Cx"], "x"),
        (["--directory=x", "t"], "x"),
        (["--directory", "x"], "x"),
        (["-C"], "."),
    ],
)
def test_the_recipe_folder_of_a_command(words: list[str], folder: str) -> None:
    assert snapshot.state_folder(words) == os.path.join(folder, ".olivebuild")


KIND = """\
from olivebuild.api.step import Fields, Step

class Echo(Step):
    kind, version, fields, summary = "echo", 1, Fields, "an example"

    def run(self, job):
        (job.out / "said.txt").write_text(str(self.version))

STEP = Echo()
"""


def test_another_package_s_kind_is_part_of_the_answer(place: Place) -> None:
    site = place.folder.parent / "site"
    (site / "echoes-1.dist-info").mkdir(parents=True)
    (site / "echoes-1.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: echoes\nVersion: 1\n"
    )
    (site / "echoes-1.dist-info/entry_points.txt").write_text(
        "[olivebuild.steps]\necho = echoes:STEP\n"
    )
    (site / "echoes.py").write_text(KIND)
    place.environment["PYTHONPATH"] = f"{os.environ.get('PYTHONPATH', '')}{os.pathsep}{site}"
    place.recipe.write_text("targets:\n  said: {kind: echo}\n")
    assert place.build().ran == ["said"]
    for _ in range(3):
        place.build()
    # Of another size: Python tells what it has compiled by that, and by the second of the last
    # change.
    (site / "echoes.py").write_text(KIND.replace("1,", "2,") + "# again\n")
    assert place.build().ran == ["said"]
    assert place.built("said", "said.txt") == b"2"


NAMES = [
    "plain",
    "two words",
    "a\nb\tc",
    "\u00e4\U0001f600",
    "-",
    "link",
    "gone",
    "folder",
    "folder/inside",
]
KINDS: dict[str, Callable[[Path], object]] = {
    "write": lambda p: p.is_dir() or p.write_bytes(p.name.encode()),
    "grow": lambda p: p.is_file() and p.write_bytes(p.read_bytes() + b"x"),
    "flip": flip,
    "touch": lambda p: p.exists() and os.utime(p),
    "long ago": lambda p: p.exists() and os.utime(p, ns=(-5, -5)),
    "mode": lambda p: p.exists() and p.chmod(p.stat().st_mode ^ 0o100),
    "remove": lambda p: shutil.rmtree(p) if p.is_dir() else p.unlink(missing_ok=True),
    "folder": lambda p: p.exists() or p.is_symlink() or p.mkdir(),
    "link": lambda p: p.exists() or p.is_symlink() or p.symlink_to("plain"),
    "again": lambda p: p.is_file() and (p.rename(f"{p}.old"), shutil.copy2(f"{p}.old", p)),
}


@pytest.mark.skipif(os.name == "nt", reason="the extension has no stats there")
@pytest.mark.parametrize("seed", range(3))
def test_c_and_python_find_the_same_differences(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = pytest.importorskip("olivebuild._native")
    chance = random.Random(seed)
    monkeypatch.chdir(tmp_path)
    for round_ in range(60):
        before = {
            str(tmp_path / name if chance.random() < 0.5 else name): None
            for name in chance.choices(NAMES, k=chance.randrange(12))
        }
        stats = {name: snapshot.stat_of(name) for name in before}
        for _ in range(chance.randrange(3)):
            name = chance.choice(NAMES)
            if name != "folder/inside" or Path("folder").is_dir():
                KINDS[chance.choice(list(KINDS))](Path(name))
        paths, kept = node_db.packed(stats)
        expected = bytes(snapshot.stat_of(name) != stat for name, stat in stats.items())
        base = os.fsencode(tmp_path) + b"/"
        short = node_db.packed(stats, base)[0]
        for threads in (1, 2, 9):
            assert native.differing(paths, kept, threads) == expected, round_
            assert native.differing(short, kept, threads, base) == expected, round_
        assert snapshot.compare(paths, kept) == expected
        assert snapshot.compare(short, kept, base) == expected


@pytest.mark.skipif(os.name == "nt", reason="the extension has no stats there")
def test_many_paths_are_shared_out(tmp_path: Path) -> None:
    native = pytest.importorskip("olivebuild._native")
    files = [tmp_path / str(i) for i in range(100)]
    for file in files:
        file.write_text(file.name)
    stats = [snapshot.stat_of(str(file)) for file in files]
    many = [i % 100 for i in range(20_001)]
    names, wanted = node_db.packed(
        {str(file): stat for file, stat in zip(files, stats, strict=True)}
    )
    names = b"".join(os.fsencode(files[i]) + b"\0" for i in many)
    wanted = b"".join(wanted[i * 40 : i * 40 + 40] for i in many)
    for number in (0, 50, 99):
        files[number].write_text("edit")
        expected = bytes(i in (0, 50, 99)[: 1 + (0, 50, 99).index(number)] for i in many)
        assert [native.differing(names, wanted, threads) for threads in (1, 2, 3, 4, 64)] == [
            expected
        ] * 5
        assert snapshot.compare(names, wanted) == expected


@pytest.mark.parametrize(
    ("paths", "size"),
    [(b"a", 40), (b"a\0", 39), (b"a\0", 80), (b"", 40), (b"a\0b", 80), (b"\0\0", 40)],
)
def test_what_does_not_belong_together_is_refused(paths: bytes, size: int) -> None:
    with pytest.raises((ValueError, TypeError)):
        snapshot.compare(paths, bytes(size))
    if os.name != "nt":
        with pytest.raises(ValueError, match="five numbers"):
            pytest.importorskip("olivebuild._native").differing(paths, bytes(size), 1)


@pytest.mark.skipif(os.name == "nt", reason="the extension has no stats there")
def test_a_base_is_where_relative_paths_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = pytest.importorskip("olivebuild._native")
    (tmp_path / "here/below").mkdir(parents=True)
    monkeypatch.chdir("/")
    stats = {
        str(tmp_path / name): snapshot.stat_of(str(tmp_path / name))
        for name in ("here", "here/below", "other")
    }
    base = os.fsencode(tmp_path / "here") + b"/"
    paths, kept = node_db.packed(stats, base)
    assert paths.split(b"\0")[1] == b"below"
    for find in (
        lambda: native.differing(paths, kept, 1, base),
        lambda: snapshot.compare(paths, kept, base),
    ):
        (tmp_path / "here/below").chmod(0o700)
        assert find() == b"\0\1\0"
    # All of it was moved: what begins there is not found, and what does not is.
    for differing in (
        native.differing(paths, kept, 1, base + b"nowhere/"),
        snapshot.compare(paths, kept, base + b"nowhere/"),
    ):
        assert differing == b"\0\1\0"
