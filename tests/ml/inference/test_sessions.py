"""Texts read portion by portion, by both runtimes alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from olivebuild.ml.inference.runtime import open_model
from olivebuild.ml.inference.sessions import Session, open_session, vocabulary_of
from tests.conftest import Place

IDS = [20, 31, 42, 53, 64, 75]


def check(session: Session, again: Session, vocabulary: int) -> None:
    """Compare logits after each token with those of portions, the last one's with `read`."""
    each = session.read_each(IDS)
    assert (each.shape, each.dtype) == ((len(IDS), vocabulary), np.float32)
    parts = [again.read(IDS[:2]), again.read_each(IDS[2:5]), again.read(IDS[5:])]
    for rows, expected in zip(parts, (each[1:2], each[2:5], each[5:]), strict=True):
        assert rows.shape == expected.shape
        assert float(np.abs(rows - expected).max()) < 0.05 * float(expected.std())
    assert session.portion(IDS) >= 1


@pytest.mark.scenario
def test_logits_are_those_of_the_whole_text(built_once: Place) -> None:
    for folder in (Path(built_once.folder, "tiny"), Path(built_once.folder, "build/onnx-int4")):
        runtime = open_model(folder)
        vocabulary = vocabulary_of(runtime)
        check(open_session(runtime, 20), open_session(runtime, 20), vocabulary)
