"""int4 models whose scales are tuned after rounding: the real steps on tiny models."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Place, rows, write_rows
from tests.support.tiny_models import make

pytestmark = pytest.mark.scenario
RECIPE = """\
version: 1
targets:
  base: {{kind: model, source: ./model}}
  tone:
    kind: dataset
    source: data/tone.jsonl
    prompt: "what is this {{phrase}}"
    completion: " {{tone}}"
    holdout: 0.2
  onnx-int4:
    kind: onnx
    model: base
    algorithm: gptq
    calibration: tone.train
    moments: merged
    {options}
"""
ALL_IN_8_BITS = ", ".join(
    f'"{node}/MatMul": int8'
    for node in (
        "/model/layers.*/attn/qkv_proj",
        "/model/layers.*/attn/o_proj",
        "/model/layers.*/mlp/gate_proj",
        "/model/layers.*/mlp/up_proj",
        "/model/layers.*/mlp/down_proj",
        "/lm_head",
    )
)
TUNED = "tuning: {steps: 15, batch: 8, lr: 5e-3}"


def prepare(
    architecture: str, options: str, tiny_model: Path, folder: Path, **changes: Any
) -> Place:
    place = Place(folder / "work", folder / "cache")
    make(architecture, place.folder / "model", tiny_model, **changes)
    write_rows(place.folder / "data/tone.jsonl", rows())
    place.recipe.write_text(RECIPE.format(options=options))
    return place


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """Return the constants of the graph in a folder."""
    import onnx

    model = onnx.load(folder / "model.onnx")
    return {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}


def divergence(events: list[dict[str, Any]]) -> tuple[float, float]:
    """Return what the step told: the divergence in the first steps and in the last."""
    (text,) = (e["text"] for e in events if "divergence" in str(e.get("text")))
    words = text.split()
    before, after = (float(w) for w in words if "e-" in w or "e+" in w)
    return before, after


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("architecture", "options", "changes"),
    [
        ("llama", "provider: cpu", {}),
        ("phi3", "symmetric: true", {}),
        ("qwen2", "shared_embeddings: true", {"dtype": "float32"}),
        ("gemma", "block_size: 16", {}),
        ("llama", 'overrides: {"/model/layers.*/mlp/down_proj/MatMul": int8}', {}),
        ("llama", "provider: cuda", {"dtype": "float16"}),
    ],
)
def test_scales_alone_are_tuned_and_the_model_answers_more_like_before(
    architecture: str, options: str, changes: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    place = prepare(architecture, options, tiny_model, tmp_path, **changes)
    assert place.build().code == 0
    before = tensors(place.folder / "build/onnx-int4")
    place.recipe.write_text(place.recipe.read_text() + f"    {TUNED}\n")
    done = place.build()
    assert done.code == 0, done.err
    assert [e["node"] for e in done.events if e["event"] == "finished"] == [
        "onnx-int4:scales",
        "onnx-int4",
    ]
    after = tensors(place.folder / "build/onnx-int4")
    assert {n: (a.shape, a.dtype) for n, a in after.items()} == {
        n: (a.shape, a.dtype) for n, a in before.items()
    }
    changed = {n for n in before if not np.array_equal(before[n], after[n])}
    assert changed
    assert all(before[n].dtype in (np.float32, np.float16) for n in changed)
    assert all(np.allclose(before[n], after[n], rtol=0.1, atol=0) for n in changed)
    first, last = divergence(done.events)
    # What is computed with rounded weights is the graph's model: others are far from the first one.
    assert last < first < 0.01


def test_a_tuned_model_is_that_of_a_build_from_scratch(tiny_model: Path, tmp_path: Path) -> None:
    place = prepare("llama", TUNED, tiny_model, tmp_path)
    assert place.build().code == 0
    first = place.built("onnx-int4", "model.onnx.data")
    shutil.copytree(
        place.folder, tmp_path / "again", ignore=shutil.ignore_patterns("build", ".olivebuild")
    )
    again = Place(tmp_path / "again", tmp_path / "empty")
    assert again.build().code == 0
    assert again.built("onnx-int4", "model.onnx.data") == first
    place.edit("steps: 15", "steps: 16")
    done = place.build()
    assert [e["node"] for e in done.events if e["event"] == "finished"] == [
        "onnx-int4:scales",
        "onnx-int4",
    ]
    assert place.built("onnx-int4", "model.onnx.data") != first


def test_a_matrix_keeps_its_scales_where_tuned_ones_lose_more(
    tiny_model: Path, tmp_path: Path
) -> None:
    place = prepare("llama", "provider: cpu", tiny_model, tmp_path)
    assert place.build().code == 0
    before = tensors(place.folder / "build/onnx-int4")
    place.recipe.write_text(
        place.recipe.read_text() + "    tuning: {steps: 15, batch: 8, lr: 10.0}\n"
    )
    done = place.build()
    assert done.code == 0, done.err
    (text,) = (e["text"] for e in done.events if "keep their scales" in str(e.get("text")))
    kept, _, total = text.split()[:3]
    after = tensors(place.folder / "build/onnx-int4")
    assert kept == total
    assert all(np.array_equal(before[n], after[n]) for n in before)


def test_layers_of_equal_weights_have_levels_of_their_own(tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    place = prepare("llama", "provider: cpu", tiny_model, tmp_path)
    file = place.folder / "model/model.safetensors"
    weights = load_file(file)
    for name in [n for n in weights if ".layers.1." in n]:
        weights[name] = weights[name.replace(".layers.1.", ".layers.0.")].clone()
    save_file(weights, file, {"format": "pt"})
    assert place.build().code == 0
    before = tensors(place.folder / "build/onnx-int4")
    place.recipe.write_text(place.recipe.read_text() + f"    {TUNED}\n")
    assert place.build().code == 0
    after = tensors(place.folder / "build/onnx-int4")
    assert all(np.array_equal(before[n], after[n]) for n in before if before[n].dtype == np.uint8)


@pytest.mark.parametrize(
    ("architecture", "options", "fact"),
    [
        ("phi3", "nodes_to_exclude: [/model/layers.0/mlp/up_proj/MatMul]", "can't be tuned"),
        (
            "llama",
            f"overrides: {{{ALL_IN_8_BITS}}}",
            "no matrix is rounded to 4 bits",
        ),
    ],
)
def test_what_can_not_be_tuned_is_an_error_with_its_place(
    architecture: str, options: str, fact: str, tiny_model: Path, tmp_path: Path
) -> None:
    place = prepare(architecture, f"{options}\n    {TUNED}", tiny_model, tmp_path)
    done = place.build()
    assert done.code != 0
    assert fact in done.err
    assert "olivebuild.yaml:" in done.err
    assert "leave `tuning` out" in done.err


def test_options_of_the_graph_tune_nothing_anew(tiny_model: Path, tmp_path: Path) -> None:
    place = prepare("qwen2", TUNED, tiny_model, tmp_path)
    assert place.build().code == 0
    place.edit("moments: merged", "moments: merged\n    accuracy_level: 1")
    done = place.build()
    assert done.code == 0, done.err
    assert [e["node"] for e in done.events if e["event"] == "finished"] == ["onnx-int4"]
