"""Fields of systems and the fields of executors that they become."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from olivebuild.recipe.importers.olive.ledger import Fate
from olivebuild.recipe.importers.olive.top.executor_fields import (
    CLIENT,
    CLIENT_IDLE,
    FIELDS,
    IDLE,
    PATHS,
)
from tests.recipe.importers.olive.examples import fates, flat, imported

SYSTEMS = {"azureml": "AzureML", "docker": "Docker", "python": "PythonEnvironment"}
VALUES: dict[str, Any] = {
    "instance_count": 2,
    "resources": {"a": "b"},
    "tags": {"a": "b"},
    "build_args": {"a": "b"},
    "run_params": {"a": "b"},
    "environment_variables": {"A": "b"},
    "hf_token": True,
    "prepend_to_path": ["/opt/bin"],
}


def test_a_field_of_a_client_is_kept_or_changes_nothing() -> None:
    assert not CLIENT.keys() & CLIENT_IDLE.keys()
    for name, to in CLIENT.items():
        assert FIELDS["azureml"][f"azureml_client_config.{name}"] == to


def test_each_reason_is_a_clause() -> None:
    for because in (*IDLE.values(), *CLIENT_IDLE.values()):
        assert re.fullmatch(r"[a-z][^.]*", because), because


def test_paths_are_fields_of_executors() -> None:
    fields = {to for table in FIELDS.values() for to in table.values()}
    assert set(PATHS) <= fields


@pytest.mark.parametrize("kind", SYSTEMS)
def test_each_field_alone_comes_into_the_recipe(kind: str, tmp_path: Path) -> None:
    (tmp_path / "conda.yaml").write_text("dependencies: [python=3.12]\n", "utf-8")
    for name, to in FIELDS[kind].items():
        above, _, key = name.rpartition(".")
        value = VALUES.get(key, "conda.yaml" if to in PATHS else "1")
        config: dict[str, Any] = {above: {key: value}} if above else {key: value}
        system = {"type": SYSTEMS[kind], "config": config}
        done = imported(tmp_path, flat(systems={"here": system}))
        below = {p: e for p, e in fates(done).items() if p.startswith("systems.here.config.")}
        (entry,) = {e.fate: e for e in below.values()}.values()
        assert entry.fate is Fate.MAPPED, (name, entry)
        assert f"    {to}: " in done.recipe or f"    {to}:\n" in done.recipe, (name, done.recipe)
