"""The engine: fields in its section or at the top level, and packagings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from olivebuild.recipe.importers.olive.ledger import Fate
from olivebuild.recipe.importers.olive.top.engine import FIELDS, IDLE, IDLE_TOP
from tests.recipe.importers.olive.examples import fates, flat, imported, nested


@pytest.mark.parametrize("field", [*IDLE, "evaluate_input_model", "evaluation_only"])
def test_fields_that_change_nothing_say_why(tmp_path: Path, field: str) -> None:
    assert field in FIELDS
    in_section = imported(tmp_path, nested(engine={field: False}))
    at_top = imported(tmp_path, flat(**{field: False}))
    for done, path in ((in_section, f"engine.{field}"), (at_top, field)):
        assert not done.faults
        assert (fates(done)[path].fate, bool(fates(done)[path].text)) == (Fate.NO_EFFECT, True)


@pytest.mark.parametrize("field", list(IDLE_TOP))
def test_hints_for_other_tools_are_without_effect(tmp_path: Path, field: str) -> None:
    done = imported(tmp_path, flat(**{field: "x"}))
    assert fates(done)[field].fate is Fate.NO_EFFECT


@pytest.mark.parametrize(
    ("packaging", "fate", "fatal"),
    [
        ({"type": "Zipfile", "name": "x"}, Fate.NO_EFFECT, False),
        ([{"type": "AzureMLModels"}], Fate.REFUSED, False),
        ({"type": "Tarball"}, Fate.REFUSED, True),
        (3, Fate.REFUSED, True),
        (None, Fate.NO_EFFECT, False),
    ],
)
def test_packagings(tmp_path: Path, packaging: Any, fate: Fate, fatal: bool) -> None:
    done = imported(tmp_path, flat(packaging_config=packaging))
    entry = next(e for e in done.entries if e.path[0] == "packaging_config")
    assert (entry.fate, entry.fatal) == (fate, fatal)


def test_measuring_alone_is_refused(tmp_path: Path) -> None:
    done = imported(tmp_path, nested(engine={"evaluation_only": True}))
    assert "no pass runs" in done.error().fact


def test_an_empty_engine_is_told(tmp_path: Path) -> None:
    assert fates(imported(tmp_path, nested(engine={})))["engine"].text == "it is empty"
