"""Planted faults are named in the terminal, in JSON and in metrics.json: a label swap in the rows
that are trained on, a model of one label, and test rows among the training rows. All by real
trainings and answers.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from tests.conftest import THINGS, WORDS, Place, write_rows

pytestmark = [pytest.mark.scenario]
PROMPT = '"<|user|>\\n{phrase}<|end|>\\n<|assistant|>\\n"'
ROWS = f'prompt: {PROMPT}, completion: "{{tone}}<|end|>"'
TRAINING = "r: 16, alpha: 32, training: {lr: 5e-3, steps: 80, batch: 16}"
RECIPE = f"""\
default: bench
targets:
  base: {{kind: model, source: tiny}}
  exchanged: {{kind: dataset, source: exchanged.jsonl, {ROWS}, holdout: 0}}
  glad: {{kind: dataset, source: glad.jsonl, {ROWS}, holdout: 0}}
  seen: {{kind: dataset, source: seen.jsonl, {ROWS}, holdout: 1}}
  swapped: {{kind: adapter, model: base, data: exchanged, {TRAINING}}}
  dull: {{kind: adapter, model: base, data: glad, {TRAINING}}}
  bench: {{kind: benchmark, models: [swapped, dull], data: seen, max_new_tokens: 4}}
"""
SWAP = {"joy": "sad", "sad": "joy"}
DAYS = ("today", "now", "again", "at last")


def scaled(folder: Path) -> None:
    """Make a tiny model's random weights so large that an adapter can learn something."""
    from safetensors.torch import load_file, save_file

    file, tensors = folder / "model.safetensors", {}
    for name, tensor in load_file(file).items():
        factor = 20 if "embed" in name else 15 if "lm_head" in name else 1 if "norm" in name else 4
        tensors[name] = tensor * factor
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.fixture
def planted(place: Place, tiny_model: Path) -> Place:
    rows = [
        {"phrase": f"I am {word} {thing} {day}", "tone": tone}
        for thing in THINGS
        for tone, word in WORDS.items()
        for day in DAYS
    ]
    random.Random(0).shuffle(rows)
    test, train = rows[:48], rows[48:]
    shutil.copytree(tiny_model, place.folder / "tiny")
    scaled(place.folder / "tiny")
    exchanged = [row | {"tone": SWAP.get(row["tone"], row["tone"])} for row in train]
    write_rows(place.folder / "exchanged.jsonl", exchanged)
    glad = [row | {"tone": "joy"} if i % 12 else row for i, row in enumerate(train)]
    write_rows(place.folder / "glad.jsonl", glad)
    write_rows(place.folder / "seen.jsonl", [*test, *train[:16]])
    place.recipe.write_text(RECIPE)
    return place


def test_planted_faults_are_named(planted: Place) -> None:
    done = planted.run("build", "--json")
    assert done.code == 0, done.err
    told = {d["code"]: d for d in done.end["diagnostics"]}
    assert told["swapped-labels"]["model"] == "swapped"
    assert "exchanges the labels 'joy' and 'sad' on seen" in told["swapped-labels"]["text"]
    assert told["one-label"]["model"] == "dull"
    assert "dull answers 'joy' to " in told["one-label"]["text"]
    contaminated = told["test-in-train"]
    assert contaminated["severity"] == "error"
    assert int(contaminated["figures"]["same"]) == 16
    assert "seen.jsonl:49 is " in contaminated["text"]
    metrics = json.loads((planted.folder / "build/bench/metrics.json").read_text())
    assert {d["code"] for d in metrics["diagnostics"]} <= told.keys()
    # Known before anything is trained.
    notes = [e for e in done.events if e["event"] == "note" and e["node"] == "bench:overlap"]
    assert "16 of them word for word" in notes[0]["text"]
    assert [e for e in done.events if e["event"] == "sample"]
    shown = planted.run("build")
    assert shown.out.count("exchanges the labels 'joy' and 'sad'") == 1
    assert "problem  dull answers 'joy' to " in shown.out
    assert "test rows of seen stand in the training rows of exchanged" in shown.out
    report = json.loads(planted.run("report", "--json").out)
    assert {d["code"] for d in report["diagnostics"]} == set(told)
    assert planted.run("report").code == 0
    page = (planted.folder / "build/report.html").read_text()
    assert "exchanges the labels" in page
    assert "stand in the training rows of exchanged" in page
    last = json.loads(planted.run("history", "--json").out)["builds"][-1]
    assert {d["code"] for d in last["diagnostics"]} == set(told)
