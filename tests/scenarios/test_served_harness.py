"""The lm-evaluation-harness asks a served model by OpenAI's API, as its `local-completions` does:
its figures are the benchmark's own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from olivebuild.core.processes import python
from tests.conftest import Place
from tests.support.require import require
from tests.support.serving import serving

pytestmark = pytest.mark.scenario
TARGETS = """\
  test:
    kind: dataset
    source: test.jsonl
    prompt: "<|user|>\\n{phrase}<|end|>\\n<|assistant|>\\n"
    completion: "{tone}<|end|>"
    holdout: 1
  bench:
    kind: benchmark
    models: [onnx-int4]
    data: test
    max_new_tokens: 4
    latency: {prompt_tokens: 8, new_tokens: 4, rounds: 1, max_rounds: 1}
"""
COMMON = """\
dataset_path: json
dataset_kwargs: {data_files: {test: test.jsonl}}
test_split: test
doc_to_text: "<|user|>\\n{{phrase}}<|end|>\\n<|assistant|>\\n"
target_delimiter: ""
metadata: {version: 1}
"""
CHOICE = """\
task: tone_choice
output_type: multiple_choice
doc_to_choice: ["joy<|end|>", "sad<|end|>", "fear<|end|>", "surprise<|end|>"]
doc_to_target: "{{tone}}<|end|>"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
WRITTEN = """\
task: tone_written
output_type: generate_until
doc_to_target: "{{tone}}"
generation_kwargs: {until: ["<|end|>"], max_gen_toks: 4, temperature: 0}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def evaluated(folder: Path, url: str, *arguments: str) -> dict[str, Any]:
    """Return the results of both tasks, of a model that is served."""
    model = f"model=onnx-int4,base_url={url}/completions,tokenizer=build/onnx-int4,max_retries=1"
    command = python("-m", "lm_eval", "run", "--model", "local-completions")
    command += ["--model_args", model, "--tasks", "tone_choice,tone_written"]
    command += ["--include_path", "tasks", "--output_path", "results", *arguments]
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_DATASETS_CACHE": str(folder / "datasets")}
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | quiet,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (file,) = (folder / "results").rglob("results_*.json")
    results: dict[str, Any] = json.loads(file.read_text())["results"]
    file.unlink()
    return results


def test_the_harness_and_the_benchmark_agree_on_a_served_model(copied: Place) -> None:
    require("lm_eval", find_spec("lm_eval"), "needs the evaluation harness")
    # Trained as long as it takes to write some answers right, and not all.
    copied.edit("{lr: 1e-3, steps: 4, batch: 4}", "{lr: 2e-2, steps: 30, batch: 8}")
    shutil.copy(copied.folder / "data/tone.jsonl", copied.folder / "test.jsonl")
    copied.recipe.write_text(copied.recipe.read_text() + TARGETS)
    done = copied.build("bench")
    assert done.code == 0, done.err
    metrics = json.loads(copied.built("bench", "metrics.json"))
    ours = metrics["models"]["onnx-int4"]["data"]["test"]
    assert ours["accuracy"] >= 0.25
    assert ours["exact_match"] > 0
    copied.folder.joinpath("tasks").mkdir()
    for name, text in {"choice": CHOICE, "written": WRITTEN}.items():
        copied.folder.joinpath(f"tasks/{name}.yaml").write_text(text + COMMON)
    with serving(copied, "onnx-int4") as served:
        theirs = evaluated(copied.folder, served.url)
        assert served.end() == 0
    assert theirs["tone_choice"]["acc,none"] == pytest.approx(ours["accuracy"], abs=1e-6)
    assert theirs["tone_written"]["exact_match,none"] == pytest.approx(ours["exact_match"])
