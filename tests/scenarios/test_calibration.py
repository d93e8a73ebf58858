"""int4 models whose weights are rounded by the moments of their inputs: the real steps on a tiny
model.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olivebuild.cache.store import Store
from tests.conftest import Place
from tests.scenarios.steps import weights_in
from tests.support.tiny_models import make

pytestmark = pytest.mark.scenario
BY_GPTQ = "block_size: 32, algorithm: gptq, calibration: tone.train, moments: "


def calibrate(place: Place, moments: str) -> None:
    place.edit("block_size: 32", BY_GPTQ + moments)


def nodes_that_ran(place: Place) -> list[str]:
    done = place.build()
    assert done.code == 0, done.err
    return [e["node"] for e in done.events if e["event"] == "finished"]


def afresh(place: Place, tmp_path: Path) -> Place:
    """The same folder, built without a cache."""
    folder = tmp_path / "afresh"
    shutil.copytree(place.folder, folder, ignore=shutil.ignore_patterns("build", ".olivebuild"))
    return Place(folder, tmp_path / "empty")


@pytest.mark.parametrize("moments", ["base", pytest.param("merged", marks=pytest.mark.slow)])
def test_an_edited_model_is_that_of_a_build_from_scratch(
    moments: str, copied: Place, tmp_path: Path
) -> None:
    calibrate(copied, moments)
    assert nodes_that_ran(copied) == ["onnx-int4:moments", "onnx-int4"]
    first = copied.built("onnx-int4", "model.onnx.data")
    copied.edit("lr: 1e-3", "lr: 2e-3")
    ran = ["adapter", "merged", "onnx-int4:moments", "onnx-int4"]
    if moments == "base":
        ran.remove("onnx-int4:moments")
    assert nodes_that_ran(copied) == ran
    second = copied.built("onnx-int4", "model.onnx.data")
    assert second != first
    scratch = afresh(copied, tmp_path)
    assert scratch.build().code == 0
    assert scratch.built("onnx-int4", "model.onnx.data") == second
    copied.edit("lr: 2e-3", "lr: 1e-3")
    assert copied.build().ran == []
    assert copied.built("onnx-int4", "model.onnx.data") == first


@pytest.mark.parametrize(
    ("layout", "like"), [("", ", algorithm: k_quant"), (", symmetric: true", "")]
)
def test_the_layout_is_that_of_rounding_without_rows(layout: str, like: str, copied: Place) -> None:
    copied.edit("block_size: 32", f"block_size: 32{like}")
    assert copied.build().code == 0
    graph, data = (copied.built("onnx-int4", n) for n in ("model.onnx", "model.onnx.data"))
    copied.edit(f"block_size: 32{like}", f"{BY_GPTQ}base{layout}")
    assert copied.build().code == 0
    assert copied.built("onnx-int4", "model.onnx") == graph
    rounded = copied.built("onnx-int4", "model.onnx.data")
    assert len(rounded) == len(data)
    assert rounded != data


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ("algorithm: gptq", "algorithm: gptq needs `calibration`"),
        ("calibration: tone.train", "`calibration` belongs to algorithm: gptq"),
        ("algorithm: gptq, calibration: nothing.train", "nothing"),
        ("algorithm: gptq, calibration: tone.train, qdq: true", "not known for qdq"),
        ("tuning: {}", "`tuning` belongs to algorithm: gptq"),
        ("algorithm: gptq, calibration: tone.train, tuning: {steps: 0}", "greater than 0"),
    ],
)
def test_what_can_not_be_calibrated_is_refused_before_anything_runs(
    options: str, fact: str, copied: Place
) -> None:
    copied.edit("block_size: 32", options)
    done = copied.run("plan")
    assert done.code != 0
    assert fact in done.err
    assert "olivebuild.yaml:" in done.err


def test_8_bits_are_not_calibrated(copied: Place) -> None:
    calibrate(copied, "base")
    copied.edit("precision: int4", "precision: int8")
    assert "algorithm: gptq rounds to 4 bits, and precision is int8" in copied.run("plan").err


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("architecture", ["llama", "phi3", "qwen2", "gemma"])
def test_moments_of_layers_are_those_of_the_whole_model(
    architecture: str, tiny_model: Path, tmp_path: Path, store: Store
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from olivebuild.ml.models.layered import LayeredModel
    from olivebuild.ml.onnx.calibration.moments import collect

    make(architecture, tmp_path / "model", tiny_model)
    rows = [np.array(ids) for ids in ([3, 4, 5, 6, 7], [3, 4, 9], [8, 9, 10, 11], [3, 4, 5, 12])]
    counted = [[1, 1, 1, 1, 1], [0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 1]]
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    sums: dict[str, torch.Tensor] = {}
    mask = torch.empty(0)

    def keep(name: str) -> Any:
        def hook(_: Any, args: tuple[torch.Tensor, ...]) -> None:
            tokens = args[0][0][mask].double()
            sums[name] = sums.get(name, 0) + tokens.T @ tokens

        return hook

    for name, module in whole.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(keep(f"{name}.weight"))
    for row, counts in zip(rows, counted, strict=True):
        mask = torch.tensor(counts, dtype=torch.bool)
        with torch.inference_mode():
            whole(input_ids=torch.from_numpy(row)[None])
    names: dict[str, str] = {}
    halves: dict[str, np.ndarray] = {}
    model = LayeredModel(weights_in(store, tmp_path / "model"), tmp_path / "model")
    for layer_names, layer_halves in collect(model, rows, tmp_path):
        names |= layer_names
        halves |= layer_halves
    # A tied head is known by the name of the embedding.
    assert {*names, "lm_head.weight"} >= set(sums)
    assert len(halves) <= len(sums)
    for name, total in sums.items():
        if name not in names:
            continue
        mean = total.numpy() / sum(map(sum, counted))
        half = halves[names[name]]
        expected = mean[np.tril_indices(len(mean))]
        assert np.abs(half - expected).max() < 1e-4 * np.abs(expected).max()
