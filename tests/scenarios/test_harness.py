"""The lm-evaluation-harness as a command beside the benchmark, as recipes/tone/harness.yaml has it:
both find the same answers right.
"""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import Place
from tests.support.require import require

pytestmark = pytest.mark.scenario
RECIPE = Path(__file__).parent.parent.parent / "recipes/tone"
TARGETS = """\
  harness:
    kind: command
    run: python harness.py {inputs.model} {out} tasks/tone.yaml
    inputs: {model: onnx-int4}
    files: [data/test.jsonl]
    outputs: [metrics.json]
    metrics: metrics.json
  test:
    kind: dataset
    source: data/test.jsonl
    prompt: "<|user|>\\n{phrase}<|end|>\\n<|assistant|>\\n"
    completion: "{tone}<|end|>"
    holdout: 1
  bench:
    kind: benchmark
    models: [onnx-int4]
    data: test
    metrics: [harness]
    latency: {prompt_tokens: 8, new_tokens: 4, rounds: 1, max_rounds: 1}
    gates: ["harness.tone_acc >= 0"]
"""
TASK = """\
task: tone
dataset_path: json
dataset_kwargs: {data_files: {test: data/test.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "<|user|>\\n{{phrase}}<|end|>\\n<|assistant|>\\n"
doc_to_choice: ["joy<|end|>", "sad<|end|>", "fear<|end|>", "surprise<|end|>"]
doc_to_target: "{{tone}}<|end|>"
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1}
"""


def test_the_harness_and_the_benchmark_agree(copied: Place) -> None:
    require("lm_eval", find_spec("lm_eval"), "needs the evaluation harness")
    shutil.copy(RECIPE / "harness.py", copied.folder)
    shutil.copy(copied.folder / "data/tone.jsonl", copied.folder / "data/test.jsonl")
    (copied.folder / "tasks").mkdir()
    (copied.folder / "tasks/tone.yaml").write_text(TASK)
    copied.recipe.write_text(copied.recipe.read_text() + TARGETS)
    done = copied.build("bench")
    assert done.code == 0, done.err + copied.run("log", "harness").out
    metrics = json.loads(copied.built("bench", "metrics.json"))
    ours = metrics["models"]["onnx-int4"]["data"]["test"]
    assert ours["rows"] == 32
    assert metrics["commands"]["harness"]["tone_acc"] == pytest.approx(ours["accuracy"], abs=1e-6)
    assert [g["gate"] for g in done.end["gates"]] == ["harness.tone_acc >= 0"]
    copied.edit("tone_acc >= 0", "tone_acc > 1")
    again = copied.build("bench")
    assert (again.code, again.ran) == (3, [])
    task = copied.folder / "tasks/tone.yaml"
    task.write_text(task.read_text().replace("version: 1", "version: 2"))
    assert copied.verdicts("harness")["harness"] == "stale"
