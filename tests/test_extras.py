"""The extras of the package: one onnxruntime each, told apart where people read of them."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from olivebuild.recipe.importers.requirements import NEEDED, RUNTIME_VERSIONS, RUNTIMES

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
WITH_RUNTIME = ("cpu", "cuda", "directml")


def requirements(extra: str) -> dict[str, SpecifierSet]:
    """Return what an extra needs, with the extras that it names."""
    packages: dict[str, SpecifierSet] = {}
    for line in EXTRAS[extra]:
        requirement = Requirement(line)
        if requirement.name == "olivebuild":
            for other in requirement.extras:
                packages |= requirements(other)
        else:
            packages[canonicalize_name(requirement.name)] = requirement.specifier
    return packages


@pytest.mark.parametrize("extra", WITH_RUNTIME)
def test_an_extra_has_one_onnxruntime_and_one_onnxruntime_genai(extra: str) -> None:
    runtimes = {name for name in requirements(extra) if name in RUNTIMES}
    assert {RUNTIMES[name] for name in runtimes} == {extra}
    assert sorted("genai" in name for name in runtimes) == [False, True]


def test_what_steps_need_is_the_same_in_all() -> None:
    steps = requirements("steps")
    for extra in WITH_RUNTIME:
        needed = requirements(extra)
        assert {n: needed[n] for n in needed if n not in RUNTIMES} == steps
    assert requirements("build") == requirements("cpu")


def test_importers_know_what_is_needed() -> None:
    core = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
    needed = {canonicalize_name(r.name): r.specifier for r in core} | requirements("steps")
    assert needed == NEEDED
    runtimes = {name: s for extra in WITH_RUNTIME for name, s in requirements(extra).items()}
    assert {n: s for n, s in runtimes.items() if n in RUNTIMES} == RUNTIME_VERSIONS


def test_extras_that_overwrite_each_other_conflict() -> None:
    conflicts = [{entry["extra"] for entry in one} for one in PROJECT["tool"]["uv"]["conflicts"]]
    assert conflicts == [set(WITH_RUNTIME), {*WITH_RUNTIME, "build"} - {"cpu"}]


def test_the_readme_says_which_to_take() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| `([\w, `]+)` \|", readme, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"\w+", row)}
    assert {*WITH_RUNTIME, "build", "azure", "s3", "gcs", "cloud"} <= named
    assert named <= EXTRAS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["build", "cuda", "cloud"])
def test_an_extra_resolves_in_an_empty_environment(extra: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "empty")], check=True)
    python = tmp_path / "empty" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    command = [str(python), "-m", "pip", "install", "--dry-run", "-q", "--report", "report.json"]
    subprocess.run([*command, f"{ROOT}[{extra}]"], cwd=tmp_path, check=True)
    assert (tmp_path / "report.json").stat().st_size
