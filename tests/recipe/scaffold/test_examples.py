"""The examples of `init --example`, from a checkout and from a wheel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from olivebuild.core.errors import RecipeError
from olivebuild.planner.project import open_graph
from olivebuild.recipe.lockfile import Lockfile
from olivebuild.recipe.scaffold import examples
from tests.conftest import Place

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", examples.EXAMPLES)
def test_an_example_stands_by_itself(name: str, tmp_path: Path) -> None:
    written = examples.copy(name, tmp_path)
    assert {"olivebuild.yaml", "olivebuild.lock", ".gitignore"} <= {*written}
    assert "bench" in open_graph(tmp_path, None).targets
    lock = json.loads((tmp_path / "olivebuild.lock").read_text())
    assert ("history" in lock, lock["libraries"]) == (False, {})
    assert Lockfile(tmp_path / "olivebuild.lock").sources == lock["sources"]
    assert lock["sources"]
    for relative in written:
        assert (tmp_path / relative).is_file()
    with pytest.raises(RecipeError, match="is there already"):
        examples.copy(name, tmp_path)


def test_there_is_no_other(tmp_path: Path) -> None:
    for name in ("phi3", "../recipes/tone", ""):
        with pytest.raises(RecipeError, match="there is no example"):
            examples.copy(name, tmp_path)
    assert not os.listdir(tmp_path)


def test_the_command(place: Place) -> None:
    done = place.run("init", "--example", "tone", "-C", "new")
    assert done.code == 0, done.err
    assert "next: olivebuild -C new" in done.out
    assert (place.folder / "new/data/tone.jsonl").is_file()
    assert place.run("plan", "-C", "new").code == 0
    both = place.run("init", "--example", "tone", "--model", "m")
    assert both.code == 2
    neither = place.run("init", "--model", "m")
    assert (neither.code, "`--data`" in neither.err) == (2, True)


@pytest.mark.slow
def test_a_wheel_has_them(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".*", "*.so", "*.egg-info", "__pycache__", "build")
    shutil.copytree(ROOT, source, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(tmp_path), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for name in examples.EXAMPLES:
        assert f"olivebuild/examples/{name}/olivebuild.yaml" in names
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "from olivebuild.recipe.scaffold import examples; from pathlib import Path; "
        "print(examples.copy('tone', Path('.')))"
    )
    (tmp_path / "new").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "new", env=environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "data/tone.jsonl" in done.stdout
