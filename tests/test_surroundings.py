"""Odd and hostile surroundings: folders with modules in them, pipes and devices as data, names and figures that no file can hold."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import olivebuild
from tests.conftest import Place, rows, write_rows

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="such files can't be made there")

DATA = 'targets:\n  tone: {kind: dataset, source: %s, prompt: "{phrase}", completion: " {tone}"}\n'


def test_doctor_imports_nothing_from_the_folder_that_it_is_asked_in(place: Place) -> None:
    for name in ("json", "onnxruntime_genai", "sitecustomize", "platform"):
        (place.folder / f"{name}.py").write_text(f"open({str(place.folder / 'ran')!r}, 'w').close()\n")
    # As the installed program does: `python -m` would put the folder first in the path by itself.
    command = [sys.executable, "-P", "-m", "olivebuild", "doctor"]
    done = subprocess.run(command, cwd=place.folder, env=os.environ | {"OLIVEBUILD_CACHE": str(place.cache)}, capture_output=True, check=False)
    assert (done.returncode, (place.folder / "ran").exists()) == (0, False)


def test_all_children_are_started_in_one_way() -> None:
    package = Path(olivebuild.__file__).parent
    guilty = [
        f"{path.relative_to(package)}:{node.lineno}"
        for path in package.rglob("*.py")
        # The snapshot only compares which interpreter it was.
        if path.name not in ("children.py", "snapshot.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "executable" and isinstance(node.value, ast.Name) and node.value.id == "sys"
    ]
    assert guilty == []


@pytest.mark.parametrize("what", ["data/pipe.jsonl", "folder", "/dev/zero", "data/*.jsonl"])
@pytest.mark.parametrize("verb", ["plan", "build"])
def test_a_pipe_or_a_device_is_no_data(place: Place, what: str, verb: str) -> None:
    write_rows(place.folder / "data/rows.jsonl", rows())
    write_rows(place.folder / "folder/rows.jsonl", rows())
    os.mkfifo(place.folder / "data/pipe.jsonl")
    os.mkfifo(place.folder / "folder/pipe")
    place.recipe.write_text(DATA % json.dumps(what))
    done = place.run(verb)
    if what == "data/*.jsonl":
        # A pattern means files.
        assert done.code == 0
        return
    assert done.code == 1
    assert "olivebuild.yaml:2:" in done.err
    assert ("is a device, not a file" if what.startswith("/dev") else "is a named pipe, not a file") in done.err


@pytest.mark.parametrize("source", ["data", "data/*.jsonl"])
@pytest.mark.parametrize("verb", ["plan", "build", "status", "why"])
def test_a_name_that_is_no_text_is_said(place: Place, source: str, verb: str) -> None:
    write_rows(place.folder / "data/rows.jsonl", rows())
    Path(os.fsdecode(os.fsencode(place.folder) + b"/data/x\xff.jsonl")).write_text(json.dumps(rows()[0]) + "\n")
    place.recipe.write_text(DATA % json.dumps(source))
    done = place.run(verb, *(["tone"] if verb == "why" else []))
    assert done.code == 1
    assert "is not UTF-8 text" in done.err
    assert "olivebuild.yaml:2:" in done.err


def test_an_output_whose_name_is_no_text_is_said(place: Place) -> None:
    program = "import os\nfor name in (b'x', b'x\\xff'):\n    open(os.environb[b'OLIVEBUILD_OUT'] + b'/' + name, 'w').close()\n"
    (place.folder / "make.py").write_text(program)
    place.recipe.write_text('targets:\n  a: {kind: command, run: "python make.py", outputs: [x]}\n')
    done = place.run()
    assert done.code == 1
    assert "is not UTF-8 text" in done.err


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-1e999", "9" * 400, '1, "\\ud800": 2'])
def test_a_metric_that_is_no_number_fails_the_step_once(place: Place, text: str) -> None:
    (place.folder / "m.json").write_text(f'{{"acc": {text}}}')
    place.recipe.write_text('targets:\n  a: {kind: command, run: "cp m.json {outputs.m}", outputs: {m: m.json}, metrics: m.json}\n')
    done = place.run("build", "--json")
    assert done.code == 1
    assert [e["event"] for e in done.events].count("started") == 1
    assert "olivebuild.yaml:2:" in done.err
    assert "which is no metric" in done.err
