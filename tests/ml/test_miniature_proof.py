"""Proofs on miniatures that can't be made: nothing is built, and nothing is left."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnxruntime_genai")

from olivebuild.ml.onnx.miniature import Miniature, Untried
from olivebuild.ml.onnx.miniature_proof import prove


def test_a_miniature_that_transformers_does_not_make_is_not_tried(tmp_path: Path) -> None:
    config = {"model_type": "llama", "hidden_size": 30, "num_attention_heads": 4, "vocab_size": 9}
    mini = Miniature(config | {"num_hidden_layers": 1}, boundaries=(), by_length=False)

    def build(source: Path, built: Path) -> None:
        raise AssertionError("there is nothing to build")

    proof = prove(mini, tmp_path / "scratch", build, "int4", "float32", exact=True)
    assert "not a multiple of the number of attention heads" in proof.untried
    assert not (tmp_path / "scratch").exists()


def test_an_unknown_architecture_has_no_miniature() -> None:
    with pytest.raises(Untried, match=r"ValueError|KeyError"):
        Miniature.of({"model_type": "nothing of the kind"}, 32)
