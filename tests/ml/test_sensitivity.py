"""Layers that want 8 bits: a tiny model in which one kind of layer suffers most from rounding."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olivebuild.api.action import Action, ActionInput
from olivebuild.api.job import Job
from olivebuild.metrics.records import SensitivityMetrics
from olivebuild.ml.benchmark import sensitivity
from olivebuild.ml.data.examples import Example
from olivebuild.steps.measurements.sensitivity import STEP

NODES = {
    f"/model/layers.{i}/{part}/MatMul": 4
    for i in range(2)
    for part in ("attn/qkv_proj", "attn/o_proj", "mlp/gate_proj", "mlp/up_proj", "mlp/down_proj")
} | {"/lm_head/MatMul": 8}


class Model:
    """A chain of layers by the names of a llama's; `spread` is how uneven down_proj's blocks are.

    Outliers in a block take its levels, and what is small in it is rounded to nothing.
    """

    def __new__(cls, spread: float) -> Any:
        import torch

        torch.manual_seed(0)

        class Chain(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embed = torch.nn.Embedding(50, 32)
                self.layers = torch.nn.ModuleList(
                    torch.nn.ModuleDict(
                        {
                            name: torch.nn.Linear(32, 32, bias=False)
                            for name in ("q_proj", "o_proj", "gate_up_proj", "down_proj")
                        }
                    )
                    for _ in range(2)
                )
                self.lm_head = torch.nn.Linear(32, 50, bias=False)

            def forward(self, input_ids: Any, use_cache: bool) -> Any:
                x = self.embed(input_ids)
                for layer in self.layers:
                    for product in layer.values():  # type: ignore[operator]
                        x = x + torch.tanh(product(x)) / 4
                return type("Out", (), {"logits": self.lm_head(x)})

        model = Chain()
        for layer in model.layers:
            layer["down_proj"].weight.data[:, ::16] *= spread  # type: ignore[index]
        return model


def searched(spread: float) -> dict[str, Any]:
    model = Model(spread)
    kinds = sensitivity.kinds_of(model, NODES)
    examples = [Example([1, 2, 3 + i], [4 + i, 5]) for i in range(6)]
    job: Any = type("Job", (), {"progress": lambda *_: None})()
    before = [p.clone() for p in model.parameters()]
    result = sensitivity._search(job, sensitivity.Ablation(model, kinds, 32, examples))
    assert all(a.equal(b) for a, b in zip(before, model.parameters(), strict=True))
    return result


def test_the_layer_that_suffers_most_is_named() -> None:
    result = searched(60.0)
    assert result["chosen"]["layers"] == ["/model/layers.*/mlp/down_proj/MatMul"]
    assert result["chosen"]["left"] < 0.5
    # Half a byte for each of two matrices' numbers.
    assert result["chosen"]["bytes"] == 2 * 32 * 32 // 2
    groups = {tuple(g["layers"]): g["left"] for g in result["groups"]}
    assert groups[("/model/layers.*/mlp/gate_proj/MatMul", "/model/layers.*/mlp/up_proj/MatMul")]
    assert min(groups.values()) == groups[("/model/layers.*/mlp/down_proj/MatMul",)]
    # What has 8 bits already is not tried.
    assert () not in groups


def test_where_all_suffer_alike_more_kinds_are_taken() -> None:
    result = searched(1.0)
    assert len(result["chosen"]["layers"]) > 1


@pytest.mark.parametrize("bits", [4, 8])
def test_rounding_is_that_of_the_blocks(bits: int) -> None:
    import torch

    weight = torch.randn(5, 70, generator=torch.Generator().manual_seed(0))
    near = sensitivity.rounded(weight, bits, 32)
    assert near.shape == weight.shape
    for start in range(0, 70, 32):
        block = weight[:, start : start + 32]
        span = block.amax(1).clamp(min=0) - block.amin(1).clamp(max=0)
        step = (span / (2**bits - 1))[:, None]
        assert bool(((near[:, start : start + 32] - block).abs() <= step * 1.001).all())
        assert len(np.unique(near[0, start : start + 32].numpy())) <= 2**bits


def answers(right: list[bool]) -> list[dict[str, Any]]:
    rows = [{"expected": "a", "label": "a" if r else "b"} for r in right]
    return [{"rows": len(rows), "accuracy": sum(right) / len(rows), "answers": rows}]


@pytest.mark.parametrize("lost", [2, 20])
def test_nothing_is_loaded_where_int4_is_as_good_as_noise_allows(
    lost: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {}
    for role, right in {
        "answers": [i >= lost for i in range(60)],
        "source_answers": [True] * 60,
    }.items():
        folder = tmp_path / role
        folder.mkdir()
        (folder / "metrics.json").write_text(json.dumps(answers(right)))
        inputs[role] = ActionInput(str(folder), str(folder), "benchmark", "bench")
    asked: list[tuple[int, list[int]]] = []

    def measure(_: Job, data: int, rows: list[int]) -> dict[str, Any]:
        asked.append((data, rows))
        raise RuntimeError("it is a test")

    monkeypatch.setattr(sensitivity, "_measure", measure)
    action = Action("t", "t", STEP.kind, "0" * 32, {}, inputs, {}, str(tmp_path), str(tmp_path))
    sensitivity.run(Job(action, io.StringIO()))
    assert asked == ([] if lost == 2 else [(0, list(range(12)))])
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written == ({} if lost == 2 else {"why_not": "it is a test"})
    assert {*written} <= {*SensitivityMetrics.__struct_fields__}


def test_a_head_that_is_the_embedding_is_rounded_alone() -> None:
    model = Model(1.0)
    model.lm_head.weight = model.embed.weight
    nodes = {"/lm_head/MatMul": 4}
    ablation = sensitivity.Ablation(
        model, sensitivity.kinds_of(model, nodes), 32, [Example([1], [2])]
    )
    embedding = model.embed.weight.clone()
    with ablation._rounded(()):
        assert model.embed.weight.equal(embedding)
        assert not model.lm_head.weight.equal(embedding)
    assert model.lm_head.weight is model.embed.weight
