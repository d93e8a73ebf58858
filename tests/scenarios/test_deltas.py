"""Deltas of int4 models whose adapters reach two modules of each layer, as those of Olive's LoRA
passes do.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from olivebuild.exporters import manifest
from tests.conftest import Place
from tests.support.tiny_models import make, make_adapter

pytestmark = [
    pytest.mark.scenario,
    pytest.mark.slow,
    # peft's own question.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]
RECIPE = """\
targets:
  base: {kind: model, source: base}
  lora: {kind: adapter, source: lora-1, model: base}
  merged: {kind: merged, model: base, adapter: lora}
  onnx-int4: {kind: onnx, model: merged, precision: int4, provider: cpu}
"""


def test_a_new_adapter_is_a_third_of_the_model(
    place: Place, tiny_model: Path, tmp_path: Path
) -> None:
    # The proportions of Phi-3-mini's layers; its embedding is a smaller part of it than here.
    make(
        "phi3",
        place.folder / "base",
        tiny_model,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=4,
    )
    for seed in (1, 2):
        make_adapter(
            place.folder / "base",
            place.folder / f"lora-{seed}",
            seed=seed,
            r=64,
            lora_alpha=64,
            target_modules=["qkv_proj", "o_proj"],
        )
    place.recipe.write_text(RECIPE)
    assert place.build("onnx-int4").code == 0
    assert place.run("export", "onnx-int4", str(tmp_path / "one")).code == 0
    place.edit("lora-1", "lora-2")
    assert place.build("onnx-int4").code == 0
    for name, since in (("delta", "one"), ("by-manifest", f"one/{manifest.NAME}")):
        words = ("export", "onnx-int4", str(tmp_path / name), "--since", str(tmp_path / since))
        told = json.loads(place.run(*words, "--json").out)
        assert 0.1 < told["delta"] / told["whole"] <= 0.35
    assert place.run("apply", str(tmp_path / "one"), str(tmp_path / "by-manifest")).code == 0
    data = (tmp_path / "one/model.onnx.data").read_bytes()
    assert data == place.built("onnx-int4", "model.onnx.data")
