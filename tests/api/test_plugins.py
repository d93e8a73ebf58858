"""Kinds, executors and trackers of other packages: the examples, installed by pip, and packages
that are broken or were written for an earlier version.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from olivebuild.api.event import Event
from olivebuild.ui.trackers import Trackers, TrackerTarget
from tests.conftest import Place

EXAMPLES = Path(__file__).parents[2] / "examples"
RECIPE = """\
default: copy
targets:
  few: {kind: sample, file: all.txt, lines: 3, seed: 1}
  copy: {kind: command, run: "cp {inputs.rows} {outputs.text}", inputs: {rows: few.rows},
    outputs: {text: text.txt}}
"""
NICENESS = """\
targets:
  niceness:
    kind: command
    run: python niceness.py {outputs.text}
    outputs: {text: text.txt}
"""
OLD_KIND = """\
from olivebuild.step import Edge, Fields, FileInput, Job, Ref, Result, Step

class EchoFields(Fields):
    text: str

class Echo(Step):
    kind = "echo"
    fields = EchoFields

    def run(self, job: Job) -> None:
        (job.out / "text.txt").write_text(job.fields(EchoFields).text)
        job.result = Result(metrics={"length": len(job.fields(EchoFields).text)})

STEP = Echo()
"""


SCANS = """\
import os, sys
from importlib import metadata

real = metadata.entry_points

def entry_points(**options):
    os.write(2, f"scan {options.get('group')}\\n".encode())
    return real(**options)

metadata.entry_points = entry_points
sys.argv[0] = "olivebuild"
from olivebuild.__main__ import main
main()
"""
"""The program, which writes a line for each group of entry points that it looks for."""


def add_package(folder: Path, module: str, code: str, group: str, entry: str) -> None:
    """Put a module and the metadata of its package into a folder that Python imports from."""
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{entry}\n")


@pytest.fixture
def packages(place: Place, tmp_path: Path) -> Path:
    """An empty folder that `olivebuild` in `place` imports from."""
    folder = tmp_path / "packages"
    folder.mkdir()
    place.environment["PYTHONPATH"] = str(folder)
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples, installed by pip into a folder of their own."""
    root = tmp_path_factory.mktemp("examples")
    sources = [shutil.copytree(p.parent, root / p.parent.name) for p in EXAMPLES.glob("*/*.toml")]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    command = [*pip, "--no-index", "--target", str(root / "packages"), *map(str, sources)]
    subprocess.run(command, check=True)
    assert len(sources) == 3
    return root / "packages"


@pytest.mark.scenario
def test_the_example_of_a_kind(place: Place, installed: Path) -> None:
    place.environment["PYTHONPATH"] = str(installed)
    place.recipe.write_text(RECIPE)
    (place.folder / "all.txt").write_text("".join(f"line {i}\n" for i in range(10)))
    done = place.run("build")
    assert done.code == 0, done.err
    assert "3 of 10 lines drawn" in done.out
    assert place.built("few", "rows.txt").count(b"line") == 3
    assert place.built("copy", "text.txt") == place.built("few", "rows.txt")
    assert place.build().ran == []
    place.edit("seed: 1", "seed: 2")
    assert place.build().ran == ["few", "copy"]
    place.edit("lines: 3", "lines: 30")
    done = place.run("build")
    assert done.code == 1
    assert "olivebuild.yaml:3:" in done.err
    assert "all.txt has 10 lines, and 30 are to be drawn" in done.err
    place.edit("lines: 30", "lines: 0")
    assert place.run("plan").code == 2


@pytest.mark.scenario
@pytest.mark.skipif(os.name != "posix", reason="nice(1) is a program of POSIX")
def test_the_example_of_an_executor(place: Place, installed: Path) -> None:
    place.environment["PYTHONPATH"] = str(installed)
    place.recipe.write_text(NICENESS)
    script = place.folder / "niceness.py"
    script.write_text("import os, sys\nopen(sys.argv[1], 'w').write(str(os.nice(0)))\n")
    done = place.build("--executor", "nice:3")
    assert done.ran == ["niceness"]
    assert int(place.built("niceness", "text.txt")) == min(19, os.nice(0) + 3)
    assert place.build().ran == []
    script.write_text("raise SystemExit(3)\n")
    done = place.run("build", "--executor", "nice")
    assert done.code == 1
    assert "niceness: the command ended with 3" in done.err
    done = place.run("build", "--executor", "nice:x")
    assert (done.code, done.err) == (
        2,
        "--executor: error: 'x' is no niceness\n  hint: write nice:10, from 0 to 19\n",
    )
    done = place.run("build", "--executor", "nicer")
    assert "there is no executor 'nicer'\n  hint: did you mean nice?" in done.err


@pytest.mark.scenario
def test_the_example_of_a_tracker(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.setenv("PYTHONPATH", str(installed))
    node = {"target": "adapter", "node": "adapter"}
    target = TrackerTarget.parse(f"csv:{tmp_path}")
    with Trackers((target,), "tone") as trackers:
        listen = trackers.tee(lambda event: None)
        listen(Event("started", {**node, "reasons": []}))
        listen(Event("metric", {**node, "step": 1, "steps": 2, "loss": 0.5}))
        listen(Event("finished", {**node, "seconds": 1.0}))
    assert trackers.warnings == []
    [file] = (tmp_path / "tone").iterdir()
    with file.open(newline="") as lines:
        assert list(csv.reader(lines)) == [["step", "metric", "value"], ["1", "loss", "0.5"]]


def test_a_kind_that_was_written_for_the_names_before(place: Place, packages: Path) -> None:
    add_package(packages, "old_echo", OLD_KIND, "olivebuild.steps", "echo = old_echo:STEP")
    place.recipe.write_text("targets: {word: {kind: echo, text: hello}}\n")
    done = place.build()
    assert done.ran == ["word"], done.err
    assert place.built("word", "text.txt") == b"hello"
    assert place.build().ran == []


def test_the_names_before_are_deprecated() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import olivebuild.step"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "DeprecationWarning: import from olivebuild.api" in done.stderr


def test_executors_that_are_none(place: Place, packages: Path) -> None:
    entry = "broken = no_module:Executor"
    add_package(packages, "broken_one", "", "olivebuild.executors", entry)
    place.recipe.write_text('targets: {a: {kind: command, run: "true", outputs: [x]}}\n')
    for name, error in (
        ("slurm", "there is no executor 'slurm'\n  hint: known are: broken, local"),
        ("local:x", "the executor local has no places, but was given 'x'"),
        ("broken", "the executor 'broken' of broken_one can't be loaded: No module named"),
    ):
        done = place.run("build", "--executor", name)
        assert done.code == 2
        assert done.err.startswith(f"--executor: error: {error}")


def test_a_plain_build_asks_no_other_package(place: Place) -> None:
    place.recipe.write_text(
        'targets: {a: {kind: command, run: "cp in.txt {outputs.x}", outputs: {x: x.txt}}}\n'
    )
    (place.folder / "in.txt").write_text("one\n")
    for arguments in ((), ("--executor", "local"), ("--executor", "other")):
        done = subprocess.run(
            [sys.executable, "-c", SCANS, "build", *arguments],
            cwd=place.folder,
            env=os.environ | {"OLIVEBUILD_CACHE": str(place.cache)},
            capture_output=True,
            text=True,
            check=False,
        )
        scans = [line for line in done.stderr.splitlines() if line.startswith("scan olivebuild")]
        assert scans == (["scan olivebuild.executors"] if "other" in arguments else [])
