"""What is sent for an environment elsewhere: the package as it is, and versions of libraries."""

from __future__ import annotations

import io
import zipfile
from importlib import metadata

import pytest

from olivebuild.core.errors import InputError
from olivebuild.executors.environments import content


def test_the_package_is_all_its_files_but_compiled_ones() -> None:
    with zipfile.ZipFile(io.BytesIO(content.package())) as package:
        names = set(package.namelist())
    assert {"olivebuild/__init__.py", "olivebuild/recipe/fields.toml"} <= names
    assert "olivebuild/executors/site/agent.py" in names
    assert not [name for name in names if name.endswith((".pyc", ".so"))]
    assert content.stamp() == content.stamp()


def test_libraries_have_the_versions_that_are_asked_for() -> None:
    lines = content.requirements({"Click": "8.0.0", "torch": "2.1.0"})
    assert {"Click==8.0.0", "torch==2.1.0", f"msgspec=={metadata.version('msgspec')}"} <= {*lines}
    assert not [line for line in lines if line.startswith("click")]


def test_the_package_itself_needs_no_library_of_steps() -> None:
    lines = content.least_requirements()
    assert [line for line in lines if line.startswith("msgspec>=")]
    assert not [line for line in lines if line.startswith("torch")]


def test_a_package_that_is_not_installed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "NAME", "olivebuild-of-none")
    with pytest.raises(InputError, match="is not installed"):
        content.requirements({})
