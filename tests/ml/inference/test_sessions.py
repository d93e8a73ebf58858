"""Texts read portion by portion, by both runtimes alike."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olivebuild.ml.inference.onnx_runtime import OnnxRuntime
from olivebuild.ml.inference.passes import PASS_LOGITS
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


def portion(monkeypatch: pytest.MonkeyPatch, length: int, kind: str, **decoder: Any) -> int:
    """Return the portion in which a graph reads a text of so many tokens."""
    runtime = OnnxRuntime.__new__(OnnxRuntime)
    runtime.config = {
        "model": {
            "type": kind,
            "vocab_size": 151_936,
            "context_length": 32_768,
            "decoder": {"inputs": {}, "outputs": {}} | decoder,
        }
    }
    monkeypatch.setattr(runtime, "generator", lambda _: None)
    return open_session(runtime, length + 1).portion([0] * length)


def test_a_graph_holds_the_logits_of_a_portion_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    most, of = PASS_LOGITS // 151_936, partial(portion, monkeypatch)
    assert of(8000, "qwen2") == most
    assert of(8000, "qwen2", sliding_window={"window_size": 16_000}) == most
    assert of(0, "qwen2") >= 1
    # What goes from token to token otherwise than by keys and values is read in one go.
    assert of(8000, "qwen2", sliding_window={"window_size": 4096}) == 8000
    assert of(8000, "lfm2", inputs={"past_conv_names": "past_conv.%d"}) == 8000
    # LongRoPE.
    assert of(8000, "phi3") == 8000
    assert of(4096, "phi3") == most
