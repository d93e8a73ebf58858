"""Digests of the rows before a step: equal where data begins alike."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from olivebuild.ml.data.examples import Tokens
from olivebuild.ml.training.prefix import _family, _prefixes
from olivebuild.ml.training.schedule import Schedule


def prefixes(words: list[int], steps: int, decay: int = 0) -> list[str]:
    """The digests of a training with two rows a step, each row a token that is learnt."""
    schedule = Schedule(
        count=len(words),
        batch=2,
        steps=steps,
        lr=1e-3,
        warmup=0,
        scheduler="stable",
        decay=decay,
        seed=None,
    )
    ids = [np.array([word], np.int32) for word in words]
    rows = [Tokens(each, np.ones(1, np.bool_)) for each in ids]
    loop: Any = SimpleNamespace(schedule=schedule, rows=rows)
    return _prefixes(loop)


def test_rows_that_are_added_leave_the_steps_before_them() -> None:
    short, long = prefixes([1, 2, 3, 4], 2), prefixes([1, 2, 3, 4, 5, 6], 3)
    assert long[:3] == short
    assert len(set(long)) == 4


def test_a_row_that_changes_changes_what_follows() -> None:
    old, new = prefixes([1, 2, 3, 4], 2), prefixes([1, 2, 3, 9], 2)
    assert new[:2] == old[:2]
    assert new[2] != old[2]


def test_steps_in_which_the_rate_falls_are_not_common() -> None:
    assert len(prefixes([1, 2, 3, 4, 5, 6], 3, decay=1)) == 3


def test_what_a_key_holds_beside_the_fields_is_in_the_family(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As that the weights of a base in FP8 have two roundings, where they had one once."""
    from olivebuild.steps.adapter import STEP, AdapterFields

    fields = AdapterFields.model_validate(
        {"model": "base", "data": "rows", "training": {"base": "fp8", "order": "append"}}
    )
    setup = SimpleNamespace(provenance=dict)
    model, device = SimpleNamespace(dtype=None), SimpleNamespace(type="cpu")
    forward = SimpleNamespace(device=device, model=model, setup=setup)
    loop: Any = SimpleNamespace(validation=None, runner=SimpleNamespace(forward=forward))
    job: Any = SimpleNamespace(action=SimpleNamespace(inputs={}, numerics={}))
    now, parameters = _family(job, fields, loop), type(STEP).parameters

    def once(step: Any, given: Any) -> dict[str, object]:
        found: Any = parameters(step, given)
        found["training"].pop("roundings")
        return found  # type: ignore[no-any-return]

    monkeypatch.setattr(type(STEP), "parameters", once)
    assert _family(job, fields, loop) != now
