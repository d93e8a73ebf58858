"""Variants of a conversion, measured, and the best under gates: edited gates choose anew and
measure nothing.
"""

from __future__ import annotations

import json

import pytest

from tests.conftest import Place

pytestmark = pytest.mark.scenario
SEARCH = """\
  wide: {kind: onnx, model: merged, precision: int4, provider: cpu, block_size: 64}
  bench:
    kind: benchmark
    models: [onnx-int4, wide]
    data: tone.test
    latency: {prompt_tokens: 8, new_tokens: 4, rounds: 1, max_rounds: 1}
  best: {kind: choice, by: bench, best: size}
"""


def test_the_best_under_gates_is_built_and_follows_its_gates(copied: Place) -> None:
    copied.recipe.write_text(copied.recipe.read_text() + SEARCH)
    done = copied.run("best")
    assert done.code == 0, done.err
    assert "chosen   best                   is wide, by size\n" in done.out
    metrics = json.loads(copied.built("bench", "metrics.json"))
    assert sorted([*metrics["pareto"]["front"], *metrics["pareto"]["beaten_by"]]) == [
        "onnx-int4",
        "wide",
    ]
    built = copied.everything()
    assert {
        name.removeprefix("best/"): data for name, data in built.items() if name.startswith("best/")
    } == {
        name.removeprefix("wide/"): data for name, data in built.items() if name.startswith("wide/")
    }
    assert copied.build("best").ran == []
    [choice] = json.loads(copied.run("report", "--json").out)["choices"]
    assert (choice["chosen"], choice["best"], [c["model"] for c in choice["contenders"]]) == (
        "wide",
        "wide",
        ["wide", "onnx-int4"],
    )
    assert {c["model"]: c["figures"]["size"] for c in choice["contenders"]} == {
        n: row["size"] for n, row in metrics["models"].items()
    }
    assert [c["model"] for c in choice["contenders"] if not c["beaten_by"]] == [
        n for n in ("wide", "onnx-int4") if n in metrics["pareto"]["front"]
    ]

    limit = metrics["models"]["wide"]["size"]
    copied.edit("best: size}", f'best: size, gates: ["size > {limit}"]}}')
    assert copied.build("best").ran == ["best"]
    assert copied.built("best", "model.onnx.data") == copied.built("onnx-int4", "model.onnx.data")

    copied.edit(f"size > {limit}", "size <= 1KB")
    missed = copied.run("best")
    assert missed.code == 3
    assert "no model of bench meets all gates; wide is nearest and misses size <= 1KB" in missed.err
    assert copied.built("best", "model.onnx.data") == copied.built("onnx-int4", "model.onnx.data")
    assert copied.run("report").code == 0
    page = copied.built("report.html").decode()
    assert "<b>onnx-int4</b> was chosen last." in page
    assert "No model meets all gates; wide is nearest" in page
