"""Parts of a source that a step wants."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from olivebuild.ml.models.remotes.wanted import Wanted


def test_a_models_files_are_wanted_unless_it_is_told_otherwise() -> None:
    wanted = Wanted()
    assert (wanted.dataset, tuple(wanted.also), wanted.look) == (False, (), None)


def test_what_is_wanted_does_not_change_under_way() -> None:
    with pytest.raises(FrozenInstanceError):
        Wanted().dataset = True  # type: ignore[misc]
