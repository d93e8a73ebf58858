"""Fields that --set changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recipe.test_file import ADAPTER, ONE, SCHEMA, fault, read


def test_overrides_change_one_field(tmp_path: Path) -> None:
    fields = (
        read(tmp_path, ADAPTER, "adapter.training.lr=2e-4", "adapter.modules=[q, k]")
        .targets["adapter"]
        .fields
    )
    assert fields.training.lr == 0.0002  # type: ignore[attr-defined]
    assert fields.training.steps == 3  # type: ignore[attr-defined]
    assert fields.modules == ["k", "q"]  # type: ignore[attr-defined]


def test_an_override_makes_the_mappings_it_needs(tmp_path: Path) -> None:
    assert read(tmp_path, ONE, "a.environment.X='1'").targets["a"].fields.environment == {"X": "1"}  # type: ignore[attr-defined]


def test_an_override_may_hold_equals_signs(tmp_path: Path) -> None:
    assert read(tmp_path, ONE, "a.run=x --y=z").targets["a"].fields.run == "x --y=z"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("setting", "fact", "hint"),
    [
        ("a", "--set takes TARGET.FIELD=VALUE", "for example --set adapter.training.lr=2e-4"),
        ("a=1", "--set takes TARGET.FIELD=VALUE", "for example --set adapter.training.lr=2e-4"),
        ("aa.run=1", "unknown target 'aa'", "did you mean a?"),
        ("a.run.x=1", "run has no fields of its own", SCHEMA),
        ("a.shel=true", "unknown key 'shel' in a", "did you mean shell?"),
        ("a.run=false", "a.run: input should be a valid string", SCHEMA),
        ("a.kind=comand", "unknown kind 'comand'", "did you mean command?"),
        ("a.environment.X=1", "a.environment.X: input should be a valid string", SCHEMA),
    ],
)
def test_a_wrong_override_is_told_as_it_was_written(
    tmp_path: Path, setting: str, fact: str, hint: str
) -> None:
    error = fault(tmp_path, ONE, setting)
    assert (str(error.where), error.fact, error.hint) == (f"--set {setting}", fact, hint)


def test_an_override_that_is_not_yaml_is_a_fault_of_the_command_line(tmp_path: Path) -> None:
    error = fault(tmp_path, ONE, "a.run=*x")
    assert error.fact == "not valid YAML: found undefined alias"
    assert str(error.where).startswith("--set")
