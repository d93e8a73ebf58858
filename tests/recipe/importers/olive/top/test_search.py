"""Search strategies: when there is a search, and that none of its fields is dropped."""

from __future__ import annotations

from pathlib import Path

import pytest

from olivebuild.recipe.importers.olive.ledger import Fate
from olivebuild.recipe.importers.olive.top.search import KNOWN
from tests.recipe.importers.olive.examples import fates, flat, imported


@pytest.mark.parametrize("value", [None, False, {}, "<search>"])
def test_without_a_search_each_pass_runs_once(tmp_path: Path, value: object) -> None:
    done = imported(tmp_path, flat(search_strategy=value))
    assert not done.faults
    assert fates(done)["search_strategy"].fate is Fate.NO_EFFECT


def test_fields_of_a_search_are_without_effect(tmp_path: Path) -> None:
    done = imported(tmp_path, flat(search_strategy=dict.fromkeys(KNOWN, 1)))
    assert not done.faults
    fate = {fates(done)[f"search_strategy.{key}"].fate for key in KNOWN}
    assert fate == {Fate.NO_EFFECT}
