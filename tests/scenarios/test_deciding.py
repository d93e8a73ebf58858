"""A benchmark that speaks while it judges: figures, decisions, and `--decide`, in real builds."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Done, Place

pytestmark = pytest.mark.scenario
ROWS = 120
BENCH = """\
  many:
    kind: dataset
    source: data/many.jsonl
    prompt: "<|user|>\\n{phrase}<|end|>\\n<|assistant|>\\n"
    completion: "{tone}<|end|>"
    holdout: 1
  bench:
    kind: benchmark
    models: [onnx-int4]
    data: many
    latency: {prompt_tokens: 8, new_tokens: 4, rounds: 1, max_rounds: 1}
    gates: ["accuracy >= 0.99"]
"""


@pytest.fixture
def judging(copied: Place) -> Place:
    """A recipe whose benchmark has rows of three labels, which nothing was trained on."""
    draw = random.Random(0)
    rows = [
        {"phrase": f"I am {tone} about thing {i}", "tone": tone}
        for i in range(ROWS)
        for tone in [draw.choice(["joy", "sad", "fear"])]
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (copied.folder / "data/many.jsonl").write_text(lines, "utf-8")
    copied.recipe.write_text(copied.recipe.read_text() + BENCH)
    copied.environment["OMP_NUM_THREADS"] = "1"
    return copied


def _events(done: Done, name: str) -> list[dict[str, Any]]:
    return [event for event in done.events if event["event"] == name]


def _answers(place: Place) -> list[dict[str, Any]]:
    metrics = json.loads(place.built("bench", "metrics.json"))
    answers: list[dict[str, Any]] = metrics["models"]["onnx-int4"]["data"]["many"]["answers"]
    return answers


def test_a_decision_ends_a_benchmark_and_a_whole_build_asks_the_rest(
    judging: Place, tmp_path: Path
) -> None:
    shutil.copytree(judging.folder, tmp_path / "plain")
    shutil.copytree(judging.cache, tmp_path / "plain-cache")

    early = judging.build("bench", "--decide")
    assert early.code == 3, early.err
    [decided] = _events(early, "decided")
    assert (decided["gate"], decided["state"]) == ("accuracy >= 0.99", "missed")
    assert 32 <= decided["rows"] < decided["of"] == ROWS
    assert early.end["stopped"] == ["bench"]
    assert [gate["state"] for gate in early.end["gates"]] == ["missed"]
    assert not any(event["node"] == "bench" for event in _events(early, "finished"))
    assert "bench was ended by --decide and has no table" in early.err
    assert judging.verdicts("bench")["bench"] == "stale"
    assert not (judging.folder / "build/bench").exists()

    # Killed in the middle, a build leaves nothing that the next one would trip over.
    process = judging.start("build", "bench", "--json")
    assert process.stdout
    for line in process.stdout:
        if json.loads(line)["event"] == "figures":
            break
    process.kill()
    process.communicate()

    whole = judging.build("bench")
    assert whole.code == 3, whole.err
    assert any("keep their answers" in note["text"] for note in _events(whole, "note"))
    figures = [event for event in _events(whole, "figures") if event["rows"] == ROWS]
    assert figures[-1]["model"] == "onnx-int4"
    [gate], [told] = whole.end["gates"], whole.end["early"]
    assert figures[-1]["figures"]["accuracy"] == pytest.approx(gate["value"], abs=1e-6)
    assert gate["state"] == told["state"] == "missed"
    assert (told["target"], told["rows"], whole.end["stopped"]) == ("bench", decided["rows"], [])

    # The answers are those of a build that never stopped and ran nothing at once.
    plain = Place(tmp_path / "plain", tmp_path / "plain-cache")
    assert plain.build("bench", "-j", "1").code == 3
    assert _answers(judging) == _answers(plain)

    judging.edit("accuracy >= 0.99", "accuracy >= 0.01")
    met = judging.build("bench", "--decide")
    assert (met.code, met.ran, met.end["stopped"]) == (0, [], [])


def test_where_nothing_has_gates_decide_is_refused(judging: Place) -> None:
    refused = judging.run("build", "--decide", "onnx-int4")
    assert refused.code == 2
    assert "there is nothing to decide: no gates in onnx-int4" in refused.err


def test_a_gate_that_rows_do_not_decide_has_the_whole_benchmark_made(judging: Place) -> None:
    judging.edit('gates: ["accuracy >= 0.99"]', 'gates: ["accuracy >= 0.01", "size <= 1GB"]')
    done = judging.build("bench", "--decide")
    assert done.code == 0, done.err
    notes = [note["text"] for note in _events(done, "note")]
    assert any("rows alone do not decide `size <= 1GB`" in text for text in notes)
    assert done.end["stopped"] == []
    assert [gate["state"] for gate in done.end["gates"]] == ["met", "met"]
