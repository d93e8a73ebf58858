"""What other systems lack or do otherwise: modules of POSIX, renames under a reader's eyes, names
of files.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from olivebuild.core.errors import RecipeError, StoreError
from olivebuild.core.fs import portable_names, swap
from olivebuild.recipe.file import load
from tests.test_rooms import modules_of_the_parent

ROOT = Path(__file__).parents[2]
WITHOUT_POSIX = """
import builtins, importlib, sys
real = builtins.__import__

def without(name, namespace=None, *more, **named):
    importer = str((namespace or {}).get("__name__", ""))
    posix = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty"}
    if name in posix and importer.startswith("olivebuild"):
        raise ImportError(f"this system has no {name}")
    return real(name, namespace, *more, **named)

builtins.__import__ = without
for module in sys.argv[1:]:
    importlib.import_module(module)
"""


def test_no_module_of_the_parent_needs_what_only_posix_has() -> None:
    modules = modules_of_the_parent()
    assert "olivebuild.core.fs.locks" in modules
    assert "olivebuild.steps.adapter" in modules
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX, *modules],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# Renames that are refused, as Windows does while somebody has a file of the folder open


class Refusal:
    """os.rename that refuses some times, for names that end so."""

    def __init__(self, ending: str, times: int) -> None:
        self.ending, self.left = ending, times

    def __call__(self, old: Path, new: Path) -> None:
        if str(old).endswith(self.ending) and self.left:
            self.left -= 1
            raise PermissionError(13, "Access is denied", str(old))
        os.replace(old, new)


def folders(root: Path) -> tuple[Path, Path, Path]:
    new, place = root / "new", root / "place"
    for folder in (new, place):
        folder.mkdir()
        (folder / "model.onnx.data").write_text(folder.name)
    return new, place, root / "place.aside"


def content(place: Path) -> str:
    return (place / "model.onnx.data").read_text()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap, "_exchange", lambda a, b: False)
    monkeypatch.setattr(swap, "PATIENCE_SECONDS", 0.2)


@pytest.mark.parametrize("ending", ["place", "new"])
def test_a_reader_who_leaves_in_time_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None, ending: str
) -> None:
    new, place, aside = folders(tmp_path)
    monkeypatch.setattr(swap, "_move", Refusal(ending, 2))
    swap.replace_folder(new, place, aside)
    assert content(place) == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["place"]


@pytest.mark.parametrize("ending", ["place", "new"])
def test_a_reader_who_stays_is_told_of_and_keeps_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None, ending: str
) -> None:
    new, place, aside = folders(tmp_path)
    monkeypatch.setattr(swap, "_move", Refusal(ending, 1000))
    with pytest.raises(StoreError) as caught:
        swap.replace_folder(new, place, aside)
    assert caught.value.fact == "another program has a file open in this folder"
    assert str(caught.value.where) == str(place)
    assert content(place) == "place"
    assert not aside.exists()


# Names


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("model.onnx.data", None),
        ("sub/x.txt", None),
        ("./x", None),
        ("console.txt", None),
        ("com10", None),
        (".hidden", None),
        ("con", "'con' is a device on Windows"),
        ("sub/AUX.txt", "'AUX.txt' is a device on Windows"),
        ("lpt1 .x", "'lpt1 .x' is a device on Windows"),
        ("x.", "'x.' ends with a dot or a space, which Windows drops"),
        ("a /b", "'a ' ends with a dot or a space, which Windows drops"),
        ("a:b", "'a:b' holds ':', which Windows has no room for in a name"),
        ("a\tb", "'a\\tb' holds '\\t', which Windows has no room for in a name"),
        ("é" * 128, "'éééééééééééééééééééé'... is longer than 255 bytes"),
    ],
)
def test_what_is_no_name_everywhere(path: str, fault: str | None) -> None:
    assert portable_names.fault(path) == fault


def test_names_that_are_one_file_on_some_systems() -> None:
    assert portable_names.clash(["a", "b", "sub/a"]) is None
    assert portable_names.clash(["README", "x", "readme"]) == ("README", "readme")
    assert portable_names.clash(["\u00e9", "e\u0301"]) == ("\u00e9", "e\u0301")


@pytest.mark.parametrize(
    ("target", "fact"),
    [
        (
            "aux: {kind: command, run: 'true', outputs: [x]}",
            "aux is the name of a device on Windows",
        ),
        (
            "a: {kind: command, run: 'true', outputs: {x: nul.txt}}",
            "a: the output 'nul.txt' can't be a file everywhere: 'nul.txt' is a device on Windows",
        ),
        (
            "a: {kind: command, run: 'true', outputs: {x: X.txt, y: x.txt}}",
            "a: the outputs 'X.txt' and 'x.txt' are one file on some systems",
        ),
    ],
)
def test_a_recipe_that_other_systems_could_not_build(
    tmp_path: Path, target: str, fact: str
) -> None:
    (tmp_path / "olivebuild.yaml").write_text(f"targets:\n  {target}\n")
    with pytest.raises(RecipeError) as caught:
        load(tmp_path / "olivebuild.yaml")
    assert caught.value.fact == fact
    assert str(caught.value.where).startswith("olivebuild.yaml:2:3")
    assert caught.value.hint


def test_the_workflow_runs_on_three_systems() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    matrix = workflow["jobs"]["fast"]["strategy"]["matrix"]
    systems = [*matrix["os"], *(row["os"] for row in matrix["include"])]
    assert {name.partition("-")[0] for name in systems} == {"ubuntu", "macos", "windows"}
    assert matrix["python"] == ["3.11", "3.12", "3.13", "3.14"]


def test_each_promise_of_the_threat_model_names_tests_that_are_there() -> None:
    named = re.findall(r"\| ([^|]*) \|$", (ROOT / "SECURITY.md").read_text("utf-8"), re.MULTILINE)
    files = [word for cell in named for word in re.findall(r"tests/[\w/]+\.py", cell)]
    assert len(files) >= 20
    assert [f for f in files if not (ROOT / f).is_file()] == []
