"""Layouts and the kinds that they are for."""

from __future__ import annotations

import pytest

from olivebuild.core.errors import RecipeError
from olivebuild.exporters.layouts import names, table


def test_the_command_line_knows_all_layouts() -> None:
    assert set(names.LAYOUTS) == set(table.TABLE)


def test_a_layout_is_for_some_kinds() -> None:
    assert table.check("mlflow", "merged", "m") is table.TABLE["mlflow"]
    with pytest.raises(RecipeError, match=r"m is of the kind merged, .* is for onnx"):
        table.check("foundry-local", "merged", "m")
    with pytest.raises(RecipeError, match="no format 'zip'"):
        table.check("zip", "merged", "m")
